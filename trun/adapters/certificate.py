"""The certificate that a service shows on its port for bulk data: self-signed, Ed25519, made at the first start.

Nobody trusts it for what it says. A client is told its SHA-256 over the encrypted control channel and goes on only
where the certificate that it is shown has that digest; so neither names nor dates in it mean anything, and no
certificate authority is asked. It is written byte by byte (X.509 in DER, RFC 5280 and RFC 8410), because the packages
that could make one cost more than these lines, and an ``openssl`` command is not on every node.

Knows neither sockets nor transfers. Who may come in: ``bulk``. Rule: the file holds a secret: 0600, never logged, and
never overwritten; whoever wants a new one removes it, and clients learn the new fingerprint with their next ticket.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from trun.adapters.folders import private_folder
from trun.errors import StateError

#: Name of the file in the folder of a service's keys.
FILE = "bulk.pem"

_SEQUENCE, _SET, _INTEGER, _BITS, _OBJECT, _UTF8, _UTC_TIME, _TIME = 0x30, 0x31, 2, 3, 6, 12, 0x17, 0x18
#: What stands before the 32 secret bytes of an Ed25519 key in PKCS #8.
_PKCS8 = bytes.fromhex("302e020100300506032b657004220420")
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate with its key in one file."""

    #: PEM file for ``SSLContext.load_cert_chain``.
    path: Path
    #: SHA-256 of the certificate, hexadecimal.
    fingerprint: str


def certificate(folder: Path) -> Certificate:
    """Return the certificate kept in ``folder``; it is made at the first call.

    Raises
    ------
    StateError
        The folder or the file is not private, or the file holds no certificate.
    """
    path = private_folder(folder) / FILE
    if not path.exists():
        _write(path, make())
    found = path.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StateError(f"others may read the secret key {path}; run `chmod 600 {path}`.", path=str(path))
    block = _BLOCK.search(path.read_bytes())
    try:
        if block is None:
            raise ValueError("it holds no certificate")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path)
        der = ssl.PEM_cert_to_DER_cert(block[0].decode("ascii"))
    except (OSError, ValueError) as error:
        raise StateError(f"{path} is damaged ({error}); remove it, and a new one is made.", path=str(path)) from error
    return Certificate(path=path, fingerprint=hashlib.sha256(der).hexdigest())


def make() -> bytes:
    """Return a new secret key and a certificate for it, as PEM."""
    from nacl.signing import SigningKey  # costs more than all else here, and is needed once in a service's life

    key = SigningKey.generate()
    algorithm = _der(_SEQUENCE, _der(_OBJECT, bytes((43, 101, 112))))  # 1.3.101.112, Ed25519
    name = _der(_SEQUENCE, _der(_SET, _der(_SEQUENCE, _der(_OBJECT, bytes((85, 4, 3))), _der(_UTF8, b"trun"))))
    dates = _der(_SEQUENCE, _der(_UTC_TIME, b"200101000000Z"), _der(_TIME, b"99991231235959Z"))
    body = _der(
        _SEQUENCE,
        _der(0xA0, _der(_INTEGER, b"\2")),  # version 3
        _der(_INTEGER, b"\1" + secrets.token_bytes(8)),
        algorithm,
        name,
        dates,
        name,
        _der(_SEQUENCE, algorithm, _der(_BITS, b"\0" + bytes(key.verify_key))),
    )
    whole = _der(_SEQUENCE, body, algorithm, _der(_BITS, b"\0" + key.sign(body).signature))
    secret = base64.b64encode(_PKCS8 + bytes(key))
    return (
        b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n" % secret
        + ssl.DER_cert_to_PEM_cert(whole).encode()
    )


def _der(tag: int, *parts: bytes) -> bytes:
    """Return a value of ASN.1 in its one canonical form: tag, length, content."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        length = bytes((size,))
    elif size < 0x100:
        length = bytes((0x81, size))
    else:
        length = b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + length + content


def _write(path: Path, text: bytes) -> None:
    """Write a file that only we can read; it appears whole or not at all, and never replaces another."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink()
