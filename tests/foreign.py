"""Another operating system for a test's process: what this machine has and that one has not is taken away.

Run as ``python -m tests.foreign PLATFORM SCRIPT ARGUMENTS``. What the standard library and the packages that we use
need for themselves is loaded before, since theirs for that system are not here. It is no such system: it shows which
names our own code uses that are not there, no more.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import runpy
import socket
import sys
from collections.abc import Sequence
from types import ModuleType

#: {platform: modules that it has not}
MODULES = {
    "darwin": frozenset[str](),
    "win32": frozenset({"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "readline"}),
}
_LINUX_OS = """
pidfd_open eventfd EFD_CLOEXEC EFD_NONBLOCK memfd_create sched_getaffinity sched_setaffinity posix_fadvise
posix_fallocate O_TMPFILE O_PATH P_PIDFD pipe2 getrandom copy_file_range splice setns unshare setresuid preadv
pwritev
"""
_POSIX_OS = """
fork forkpty register_at_fork getuid geteuid getgid getegid getpgid getpgrp setsid setpgid killpg wait3 wait4
WNOHANG WIFEXITED mkfifo mknod chown lchown fchown fchmod fchdir chroot nice getpriority setpriority
O_NOFOLLOW O_DIRECTORY O_CLOEXEC O_NONBLOCK O_SYNC fdatasync sync uname getloadavg statvfs fstatvfs pread
pwrite sendfile sysconf confstr ttyname openpty initgroups setuid setgid waitid posix_spawn lockf F_LOCK
ctermid
"""
_POSIX_SIGNAL = """
SIGKILL SIGUSR1 SIGUSR2 SIGHUP SIGCHLD SIGSTOP SIGCONT SIGALRM SIGQUIT SIGPIPE pthread_sigmask pthread_kill
sigwait setitimer alarm pause SIG_BLOCK SIGWINCH SIGTSTP
"""
_LINUX_SIGNAL = "sigtimedwait sigwaitinfo pidfd_send_signal SIGPWR SIGRTMIN"
#: {platform: {module: names that it has not there}}
NAMES = {
    "darwin": {"os": _LINUX_OS, "select": "epoll", "signal": _LINUX_SIGNAL, "socket": "SO_PEERCRED"},
    "win32": {
        "os": _LINUX_OS + _POSIX_OS,
        "select": "epoll poll",
        "signal": _LINUX_SIGNAL + _POSIX_SIGNAL,
        "socket": "SO_PEERCRED AF_UNIX SCM_RIGHTS SO_REUSEPORT send_fds recv_fds",
    },
}
#: Loaded before: they look at the platform for themselves.
LOADED = (
    *("argparse", "ctypes", "concurrent.futures", "getpass", "hashlib", "http.client", "inspect", "json", "logging"),
    *("multiprocessing", "pickle", "platform", "random", "runpy", "secrets", "select", "shutil", "signal", "socket"),
    *("sqlite3", "ssl", "subprocess", "tempfile", "threading", "urllib.request", "uuid", "importlib.metadata"),
    *("cloudpickle", "msgspec", "zmq", "zmq.utils.monitor", "nacl.signing", "nacl.public", "nacl.secret", "psutil"),
)


class _Missing(importlib.abc.MetaPathFinder):
    """Says of modules that they are not there."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Refuse the modules of another system."""
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def become(platform: str) -> None:
    """Make this process one on another system, for the modules that are loaded from now on."""
    for name in LOADED:
        __import__(name)
    for name in MODULES[platform]:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Missing(MODULES[platform]))
    pair = functools.partial(socket.socketpair, socket.AF_UNIX)  # there it is one of TCP, and asks for no family
    for module, names in NAMES[platform].items():
        found = sys.modules[module]
        for name in names.split():
            if hasattr(found, name):
                delattr(found, name)
    socket.socketpair = pair  # type: ignore[assignment]
    sys.platform = platform


if __name__ == "__main__":
    become(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
