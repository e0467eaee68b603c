"""Key files with a passphrase: the seed in a secretbox whose key argon2id makes from what the user types.

Who wants one gets it with ``trun agent lock --set``; no key has one by default, since most run where nobody types.
A file says how much work its passphrase costs, within limits, so that the cost can grow.

Who may come in: the agent, and the command line. Rule: a passphrase is never kept, printed, logged, or read from the
environment, which other processes can see.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
from pathlib import Path

from trun.adapters import system
from trun.adapters.keys import KEY_BYTES, MARK, read_seed
from trun.errors import BadOption, NotAuthorised, StateError

#: First word of a file whose seed needs a passphrase; then operations, memory in KiB, salt and box (base64).
LOCKED_MARK = "trun-locked-1"
#: Work of a new file: about a quarter of a second and 128 MiB.
OPERATIONS, MEMORY_KIB = 3, 128 * 1024
#: A file that asks for more is refused: it is damaged, or made to hang its reader.
MOST_OPERATIONS, MOST_MEMORY_KIB = 16, 1024 * 1024
_SALT_BYTES = 16


def is_locked(path: Path) -> bool:
    """Whether the seed in this file needs a passphrase; False where there is no file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LOCKED_MARK)) == LOCKED_MARK.encode()
    except FileNotFoundError:
        return False


def lock_text(seed: bytes, passphrase: str, *, operations: int = OPERATIONS, memory_kib: int = MEMORY_KIB) -> str:
    """Return a seed as the line of a file that needs a passphrase."""
    if not passphrase:
        raise BadOption("an empty passphrase protects nothing.")
    from nacl.secret import SecretBox

    salt = secrets.token_bytes(_SALT_BYTES)
    box = bytes(SecretBox(_key(passphrase, salt, operations, memory_kib)).encrypt(seed))
    words = (LOCKED_MARK, operations, memory_kib, base64.b64encode(salt).decode(), base64.b64encode(box).decode())
    return " ".join(map(str, words))


def unlock_text(text: str, passphrase: str) -> bytes:
    """Return the seed of such a line.

    Raises
    ------
    NotAuthorised
        It is another passphrase.
    StateError
        The line is damaged.
    """
    from nacl.exceptions import CryptoError
    from nacl.secret import SecretBox

    words = text.split()
    try:
        if len(words) != 5 or words[0] != LOCKED_MARK:
            raise ValueError(words[:1])
        operations, memory_kib = int(words[1]), int(words[2])
        salt, box = (base64.b64decode(word, validate=True) for word in words[3:])
        fits = 1 <= operations <= MOST_OPERATIONS and 8 <= memory_kib <= MOST_MEMORY_KIB
        if not fits or len(salt) != _SALT_BYTES or len(box) != SecretBox.NONCE_SIZE + SecretBox.MACBYTES + KEY_BYTES:
            raise ValueError(words[0])
    except (ValueError, binascii.Error):
        raise StateError("the locked key is damaged.") from None
    try:
        return SecretBox(_key(passphrase, salt, operations, memory_kib)).decrypt(box)
    except CryptoError:
        raise NotAuthorised("this is not the passphrase of the key.") from None


def _key(passphrase: str, salt: bytes, operations: int, memory_kib: int) -> bytes:
    from nacl.pwhash import argon2id

    return argon2id.kdf(KEY_BYTES, passphrase.encode(), salt, opslimit=operations, memlimit=memory_kib * 1024)


def open_seed(path: Path, passphrase: str = "") -> bytes:
    """Return the seed of a key file, which may need a passphrase.

    Raises
    ------
    NotAuthorised
        It needs one, and this is not it.
    StateError
        Others may read the file, or it holds no key.
    """
    if not is_locked(path):
        return read_seed(path)
    found = path.stat()
    if not system.is_mine(found) or system.is_open_to_others(found, 0o077):
        raise StateError(f"others may read the secret key {path}; run `chmod 600 {path}`.", path=str(path))
    if not passphrase:
        raise NotAuthorised(f"the key {path} needs its passphrase; `trun agent start` asks for it.")
    return unlock_text(path.read_text(errors="replace"), passphrase)


def set_passphrase(path: Path, old: str, new: str) -> None:
    """Write a key file anew with another passphrase, or (empty) with none; it is replaced whole or not at all."""
    seed = open_seed(path, old)
    line = lock_text(seed, new) if new else f"{MARK} {base64.b64encode(seed).decode()}"
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()
