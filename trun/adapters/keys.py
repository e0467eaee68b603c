"""Keys of people and services: one secret seed of 32 bytes gives a CURVE pair and an Ed25519 pair.

The CURVE public key, written as 40 characters of Z85, is the identity of a person or a service; the Ed25519 pair signs
tokens. People keep their seed in ``CONFIG/id`` (0600), services theirs in ``STATE/keys``. Where only processes of one
user on one machine meet, no key is ever made.

Imports ``nacl`` only once a key is needed: that import costs more than the whole client. Knows
neither sockets nor roles. Rule: a secret is never printed, logged, or part of a ``repr``.
Source: design paper on reliability and security, C3.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import hashlib
import os
import secrets
import socket
from pathlib import Path

from trun.adapters import system
from trun.adapters.folders import config_folder, private_folder
from trun.errors import BadOption, StateError

_B85 = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_Z85 = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_TO_Z85, _FROM_Z85 = bytes.maketrans(_B85, _Z85), bytes.maketrans(_Z85, _B85)

#: First word of a file that holds a seed.
MARK = "trun-key-1"
KEY_BYTES = 32
KEY_CHARS = 40


def z85(raw: bytes) -> str:
    """Return 32 bytes as 40 characters (ZeroMQ RFC 32)."""
    return base64.b85encode(raw).translate(_TO_Z85).decode()


def from_z85(text: str) -> bytes:
    """Return the 32 bytes of a key that is written as 40 characters.

    Raises
    ------
    BadOption
        It is no such key.
    """
    try:
        raw = base64.b85decode(text.encode("ascii").translate(_FROM_Z85)) if len(text) == KEY_CHARS else b""
    except (ValueError, UnicodeEncodeError):
        raw = b""
    if len(raw) != KEY_BYTES or z85(raw) != text:
        raise BadOption(f"{text!r} is no key: keys are {KEY_CHARS} characters long, as `trun keygen` prints them.")
    return raw


def fingerprint(key: str) -> str:
    """Return the fingerprint of a public key for people to compare, and for names of services in URLs."""
    digest = hashlib.sha256(from_z85(key)).digest()[:16]
    text = base64.b32encode(digest).decode().rstrip("=").lower()
    return "-".join(text[start : start + 5] for start in range(0, len(text), 5))


class KeyPair:
    """All keys that one seed gives.

    Parameters
    ----------
    seed
        32 secret bytes.
    """

    __slots__ = ("_curve", "_seed", "_signing", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise BadOption(f"a seed has {KEY_BYTES} bytes, not {len(seed)}.")
        from nacl import bindings, signing

        self._seed = seed
        self._curve = _derive(seed, b"trun-curve")
        self._signing = signing.SigningKey(_derive(seed, b"trun-sign"))
        #: The CURVE public key: the identity (40 characters of Z85).
        self.public = z85(bindings.crypto_scalarmult_base(self._curve))

    def __repr__(self) -> str:
        return f"<keys of {self.fingerprint}>"

    @property
    def seed(self) -> bytes:
        """The secret seed itself."""
        return self._seed

    @property
    def secret(self) -> str:
        """The CURVE secret key (40 characters of Z85)."""
        return z85(self._curve)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the identity."""
        return fingerprint(self.public)

    @property
    def verify(self) -> str:
        """The Ed25519 public key in hexadecimal."""
        return bytes(self._signing.verify_key).hex()

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature of ``data``."""
        return bytes(self._signing.sign(data).signature)


def verified(verify: str, data: bytes, signature: bytes) -> bool:
    """Return whether ``signature`` is that of ``data`` by the holder of the Ed25519 key ``verify`` (hexadecimal)."""
    from nacl.exceptions import CryptoError
    from nacl.signing import VerifyKey

    try:
        VerifyKey(bytes.fromhex(verify)).verify(data, signature)
    except (CryptoError, ValueError, TypeError):
        return False
    return True


#: Number of the first message of a connection, as CURVE counts.
HELLO_NUMBER = (1).to_bytes(8, "big")


def sealed_hello(server: str) -> tuple[bytes, bytes]:
    """Return a public key of the moment, and 64 zero bytes that only the holder of ``server`` can read with it."""
    from nacl.public import Box, PrivateKey, PublicKey

    ours = PrivateKey.generate()
    sealed = Box(ours, PublicKey(from_z85(server))).encrypt(bytes(64), b"CurveZMQHELLO---" + HELLO_NUMBER)
    return bytes(ours.public_key), bytes(sealed.ciphertext)


def _derive(seed: bytes, person: bytes) -> bytes:
    return hashlib.blake2b(key=seed, digest_size=KEY_BYTES, person=person).digest()


def new_seed() -> bytes:
    """Return a fresh secret seed."""
    return secrets.token_bytes(KEY_BYTES)


# -- files ------------------------------------------------------------------------------------------------------------


def read_seed(path: Path) -> bytes:
    """Read a seed from a file that nobody else may read.

    Raises
    ------
    StateError
        Others may read or write the file, it is not ours, or it holds no seed.
    """
    found = path.stat()
    if not system.is_mine(found) or system.is_open_to_others(found, 0o077):
        raise StateError(f"others may read the secret key {path}; run `chmod 600 {path}`.", path=str(path))
    words = path.read_text(errors="replace").split()
    if len(words) >= 2 and words[0] == MARK:
        with contextlib.suppress(ValueError):
            seed = base64.b64decode(words[1], validate=True)
            if len(seed) == KEY_BYTES:
                return seed
    raise StateError(f"{path} holds no key of trun.", path=str(path))


def write_seed(path: Path, seed: bytes) -> None:
    """Write a seed so that only we can read it; the file appears whole or not at all, and never replaces another."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(f"{MARK} {base64.b64encode(seed).decode()}\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
    finally:
        part.unlink()


def user_key_file() -> Path:
    """Return the file of this user's seed."""
    return config_folder() / "id"


def user_keys(*, make: bool = True) -> KeyPair:
    """Return this user's keys; they are made at the first use (unless ``make`` is False).

    Raises
    ------
    StateError
        The file is not private, damaged, or missing and must not be made.
    """
    path = user_key_file()
    if not path.exists():
        if not make:
            raise StateError(f"there is no key {path}; `trun keygen` makes one.", path=str(path))
        write_seed(path, new_seed())
    keys = KeyPair(read_seed(path))
    public = path.with_name("id.pub")
    if not public.exists():
        public.write_text(f"{user_name()} {keys.public} {user_name()}@{socket.gethostname()}\n")
    return keys


def next_user_keys() -> KeyPair:
    """Return the keys that this user is about to change to; the same ones until ``change_user_keys``."""
    path = user_key_file().with_name("id.next")
    if not path.exists():
        write_seed(path, new_seed())
    return KeyPair(read_seed(path))


def change_user_keys() -> None:
    """Let the next keys be this user's from now on; the old seed stays beside them as ``id.old``."""
    path = user_key_file()
    for name in ("id.old", "id.pub"):
        path.with_name(name).unlink(missing_ok=True)
    os.link(path, path.with_name("id.old"))
    path.with_name("id.next").replace(path)
    user_keys(make=False)


def user_name() -> str:
    """Return the login name of this user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # Windows has no list of users
        return f"uid{system.user_id()}"


class ServiceKeys:
    """What a service signs and speaks with: its CURVE pair, and token roots by generation."""

    def __init__(self, folder: Path) -> None:
        #: ``STATE/keys``
        self.folder = private_folder(folder / "keys")
        self.curve = self._pair("curve")
        numbers = sorted(int(path.suffix[1:]) for path in self.folder.glob("token_root.*") if path.suffix[1:].isdigit())
        #: Generation of the root that signs new tokens.
        self.generation = numbers[-1] if numbers else 1
        #: {generation: keys}; the one before the last still verifies.
        self.roots = {number: self._pair(f"token_root.{number}") for number in numbers[-2:] or [1]}

    def _pair(self, name: str) -> KeyPair:
        path = self.folder / name
        if not path.exists():
            write_seed(path, new_seed())
        return KeyPair(read_seed(path))

    @property
    def root(self) -> KeyPair:
        """The keys that sign new tokens."""
        return self.roots[self.generation]


def has_service_keys(folder: Path) -> bool:
    """Whether a service has keys: it has, once it has listened at more than the user's own socket."""
    return (folder / "keys" / "curve").exists()
