"""Where things lie: state, configuration, sockets, the run folders of scripts, and the lock that gives a folder one
owner.

Each place is named by a variable (``TRUN_STATE_DIR``, ``TRUN_CONFIG_DIR``, ``TRUN_RUNTIME_DIR``) or is the
platform's own (XDG on Linux). Folders are made 0700; one that belongs to somebody else, or that others may write
to, is refused.

Does not know what is written into the folders. Who may come in: the other adapters, the node, and the composition
rooms.
Rule: nothing is ever made in the working folder, and a folder that a living process holds is never removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from trun.adapters import system
from trun.errors import BadOption, StateError, StateHeld

#: Longest path of a Unix socket in bytes, without the closing zero (``sun_path`` has 108).
SOCKET_PATH_BYTES = 107
#: Seconds between two looks for old run folders.
PRUNE_EVERY_S = 3600.0
#: Run folders are kept this long, and so much of them in all, unless configured otherwise.
KEEP_S = 30 * 24 * 3600.0
KEEP_BYTES = 2 * 1024**3
#: Above so many notes on where services lie, those of folders that are gone are removed.
NOTES = 1000

#: File systems on which two hosts may meet and a write-ahead log is not safe, and those where it depends on the set-up.
REFUSED_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "fuse.sshfs"})
DOUBTFUL_FILE_SYSTEMS = frozenset({"lustre", "gpfs", "beegfs", "ceph", "fuse.glusterfs", "fuse.ceph-fuse", "9p"})


# -- the three places -------------------------------------------------------------------------------------------------


#: File in a state folder with the limits of its counted resources.
LIMITS = "limits.json"
#: File in a state folder with the name of its service, where that is not ``local``.
NAME = "name"


def state_folder() -> Path:
    """Return the folder of all that lasts, made and checked."""
    return private_folder(_place("TRUN_STATE_DIR", "XDG_STATE_HOME", "~/.local/state"), variable="TRUN_STATE_DIR")


def config_folder() -> Path:
    """Return the folder of configuration and keys, made and checked."""
    return private_folder(_place("TRUN_CONFIG_DIR", "XDG_CONFIG_HOME", "~/.config"), variable="TRUN_CONFIG_DIR")


def runtime_folder() -> Path:
    """Return the folder of sockets, made and checked; short, because socket paths are limited to 107 bytes."""
    named = os.environ.get("TRUN_RUNTIME_DIR")
    base = os.environ.get("XDG_RUNTIME_DIR")
    if named:
        found = Path(named).expanduser().absolute()
    elif base and os.access(base, os.W_OK):
        found = Path(base, "trun")
    else:
        found = Path(tempfile.gettempdir(), f"trun-{system.user_id()}")
    return private_folder(found, variable="TRUN_RUNTIME_DIR")


def _place(variable: str, xdg: str, default: str) -> Path:
    named = os.environ.get(variable)
    if named:
        return Path(named).expanduser().absolute()
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/trun").expanduser()
    return Path(os.environ.get(xdg) or default, "trun").expanduser().absolute()


def private_folder(path: Path, *, variable: str = "") -> Path:
    """Make a folder that is the user's alone (0700), or check one that exists, and return it.

    Raises
    ------
    StateError
        It cannot be made or written, belongs to somebody else, or others may write to it. The text says what to do.
    """
    hint = f" choose another with {variable}." if variable else " choose another folder."
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise StateError(f"the folder {path} cannot be made ({error.strerror});{hint}", path=str(path)) from error
    if not system.is_mine(found):
        raise StateError(f"the folder {path} belongs to the user with uid {found.st_uid};{hint}", path=str(path))
    if system.is_open_to_others(found, 0o022):
        raise StateError(f"others may write to the folder {path}; run `chmod go-w {path}`, or{hint}", path=str(path))
    if not os.access(path, os.W_OK | os.X_OK):
        raise StateError(f"the folder {path} cannot be written (Permission denied);{hint}", path=str(path))
    return path


# -- sockets ----------------------------------------------------------------------------------------------------------


def socket_address(name: str) -> str:
    """Return the ``ipc://`` address of a service in the runtime folder."""
    path = runtime_folder() / f"{name}.sock"
    check_socket_path(str(path))
    return f"ipc://{path}"


def check_socket_path(path: str) -> None:
    """Refuse a path that is too long for a Unix socket."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_BYTES:
        raise BadOption(
            f"the socket path {path} has {size} bytes; a Unix socket takes at most {SOCKET_PATH_BYTES}. "
            "Set TRUN_RUNTIME_DIR to a folder with a shorter name."
        )


# -- run folders: one for each run of a script ------------------------------------------------------------------------


def run_name() -> str:
    """Return a new short name for a run: script, time, and four random digits, ``fit-251121-104512-9f3a``."""
    script = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c", "-m", "-") else "python"
    script = re.sub(r"[^A-Za-z0-9_]+", "_", script).strip("_")[:16] or "python"
    return f"{script}-{time.strftime('%y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def runs_folder() -> Path:
    """Return the folder that holds the run folders."""
    return private_folder(state_folder() / "runs", variable="TRUN_STATE_DIR")


def new_run_folder() -> tuple[Path, str]:
    """Make the folder of a new run and return it with its name."""
    runs = runs_folder()
    while True:
        name = run_name()
        try:
            (runs / name).mkdir(mode=0o700)
        except FileExistsError:
            continue
        except OSError as error:
            raise StateError(
                f"the folder {runs / name} cannot be made ({error.strerror}); choose another with TRUN_STATE_DIR.",
                path=str(runs / name),
            ) from error
        return runs / name, name


def run_folders() -> list[Path]:
    """Return the run folders, the newest first."""
    found = []
    for path in _subfolders(runs_folder()):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _subfolders(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as items:
        for item in items:
            if item.is_dir(follow_symlinks=False):
                yield Path(item.path)


def prune_runs(*, now: float, keep_s: float = KEEP_S, keep_bytes: int = KEEP_BYTES) -> list[Path]:
    """Remove run folders that are older than ``keep_s`` seconds, then the oldest until all fit into ``keep_bytes``.

    A folder that a living process holds is left alone, however old. Returns what was removed.
    """
    removed = []
    total = 0
    for path in run_folders():
        newest, size = _extent(path)
        total += size
        if now - newest <= keep_s and total <= keep_bytes:
            continue
        if _remove_if_free(path):
            removed.append(path)
            total -= size
    return removed


def prune_now_and_then() -> None:
    """Prune run folders, at most once an hour for all services of this user."""
    stamp = state_folder() / "runs-pruned"
    now = time.time()
    try:
        if now - stamp.stat().st_mtime < PRUNE_EVERY_S:
            return
    except FileNotFoundError:
        pass
    with contextlib.suppress(OSError):
        stamp.touch()
        prune_runs(now=now)


def _extent(path: Path) -> tuple[float, int]:
    """Return the time of the last change below ``path``, and the bytes that it takes."""
    newest, size = 0.0, 0
    for folder, _, files in os.walk(path):
        for name in (".", *files):
            with contextlib.suppress(OSError):
                found = os.lstat(os.path.join(folder, name))
                newest = max(newest, found.st_mtime)
                size += found.st_blocks * 512
    return newest, size


def _remove_if_free(path: Path) -> bool:
    try:
        lock = FolderLock(path)
    except (StateError, OSError):
        return False
    try:
        shutil.rmtree(path)
    except OSError:
        return False
    finally:
        lock.release()
    return True


# -- one owner --------------------------------------------------------------------------------------------------------


class Holder(msgspec.Struct, frozen=True):
    """Who holds a folder; written into its lock file."""

    pid: int = 0
    #: Seconds since the epoch, UTC.
    since: float = 0.0


class FolderLock:
    """Holds ``folder/lock`` for this process until ``release`` or its end, however it ends.

    Raises
    ------
    StateHeld
        Another process holds the folder; ``pid`` and ``since`` are attributes of the error.
    StateError
        The lock file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | system.CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"the folder {folder} cannot be written ({error.strerror}); make it writable or choose another.",
                path=str(folder),
            ) from error
        try:
            if not _lock(fd):
                raise held_by(folder, _read_holder(fd))
        except BaseException as error:
            os.close(fd)
            if isinstance(error, OSError) and not isinstance(error, StateError):
                text = f"the folder {folder} cannot be locked ({error.strerror})."
                raise StateError(text, path=str(folder)) from error
            raise
        os.ftruncate(fd, 0)
        with contextlib.suppress(OSError):  # on a full disk the lock still counts, it only cannot say whose it is
            os.pwrite(fd, json.dumps({"pid": os.getpid(), "since": time.time()}).encode(), 0)
        self._fd = fd
        self._pid = os.getpid()

    def release(self) -> None:
        """Give the folder up; a second call does nothing, nor does one in a forked child."""
        if self._fd >= 0:
            if self._pid == os.getpid():
                # Said outright: a child that is just being started may still have our descriptors for a moment.
                system.unlock(self._fd)
            os.close(self._fd)
            self._fd = -1


def _lock(fd: int) -> bool:
    """Take the lock; False where somebody holds it. Tries for a moment, since ``holder`` takes it for an instant."""
    for pause_s in (*[0.001] * 4, *[0.005] * 8, 0.0):
        try:
            system.lock(fd)
        except BlockingIOError:
            time.sleep(pause_s)
        else:
            return True
    return False


def _read_holder(fd: int) -> Holder:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except msgspec.MsgspecError:
        return Holder()


def held_by(path: Path, who: Holder, *, what: str = "state folder") -> StateHeld:
    """Return the error that says who holds a folder or a socket."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(who.since)) if who.since else "an unknown time"
    process = f"process {who.pid}" if who.pid else "another process"
    return StateHeld(
        f"the {what} {path} is held by {process} since {since}; stop it first, or choose another.",
        pid=who.pid,
        since=who.since,
        path=str(path),
    )


def holder(folder: Path) -> Holder | None:
    """Return who holds the folder now, or None when nobody does."""
    try:
        fd = os.open(folder / "lock", os.O_RDONLY | system.CLOEXEC)
    except OSError:
        return None
    try:
        try:
            system.lock(fd, shared=True)
        except BlockingIOError:
            return _read_holder(fd)
        return None
    finally:
        os.close(fd)


def file_system(folder: Path) -> str:
    """Return the type of the file system that the folder lies on (``ext4``, ``nfs4``), or an empty string."""
    try:
        device = os.stat(folder).st_dev
        text = Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[2] == wanted:
            return right.split()[0]
    return ""


# -- where the services of this user lie ------------------------------------------------------------------------------


def register_service(key: str, folder: Path) -> None:
    """Note where the service with this key keeps its files, for others of the same user on this machine."""
    notes = private_folder(runtime_folder() / "services", variable="TRUN_RUNTIME_DIR")
    known = os.listdir(notes)
    if len(known) > NOTES:
        for old in known:
            with contextlib.suppress(OSError):
                if not Path((notes / old).read_text()).is_dir():
                    (notes / old).unlink()
    part = notes / f".{os.getpid()}"
    part.write_text(str(folder))
    part.replace(notes / _plain_key(key))


def service_folder(key: str) -> Path | None:
    """Return the folder of the service with this key, or None where it is not known here."""
    try:
        return Path((runtime_folder() / "services" / _plain_key(key)).read_text())
    except FileNotFoundError:
        return None


def _plain_key(key: str) -> str:
    if not key or not all(char.isalnum() or char in "-_" for char in key):
        raise BadOption(f"{key!r} is no key of a service.")
    return key


def recorded_limits(folder: Path, given: Mapping[str, float]) -> dict[str, float]:
    """Return the limits of a service's counted resources, those given now before those on record; record them."""
    record = folder / LIMITS
    try:
        known: dict[str, float] = json.loads(record.read_text())
    except (OSError, ValueError):
        known = {}
    limits = {**known, **given}
    if limits != known:
        part = record.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(limits))
        part.replace(record)
    return limits
