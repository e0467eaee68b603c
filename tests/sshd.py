"""A real OpenSSH server for tests: on a port of its own, with keys and configuration in a temporary folder.

It lets in one key, whose ``ssh`` configuration stands beside it; commands run in the environment that is given. Nothing
of the user's own ssh is read or written. ``missing()`` says why it cannot be had here.
"""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

#: Seconds that the server may take to listen.
READY_S = 30.0
#: Where a server that was started as root wants an empty folder.
PRIVSEP = Path("/run/sshd")


def missing() -> str:
    """Return why there can be no server here; empty where there can."""
    for command in ("sshd", "ssh", "ssh-keygen"):
        if _find(command) is None:
            return f"there is no {command} here (Debian: openssh-server, openssh-client)"
    if os.getuid() == 0:
        try:
            PRIVSEP.mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            return f"sshd needs {PRIVSEP}: {error}"
    return ""


def _find(command: str) -> str | None:
    return shutil.which(command) or shutil.which(command, path="/usr/sbin:/usr/local/sbin:/sbin")


def make_key(path: Path) -> str:
    """Make a key pair; return the public line."""
    keygen = _find("ssh-keygen")
    assert keygen is not None
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=READY_S)
    return path.with_suffix(".pub").read_text()


class Sshd:
    """A server that runs until the ``with`` ends.

    Parameters
    ----------
    folder
        Where its files stand.
    environment
        What commands see there.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700)
        self.host_key = make_key(folder / "host")
        (folder / "authorized").write_text(make_key(folder / "id"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self.know(self.host_key)
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": str(folder / "host"),
            "AuthorizedKeysFile": str(folder / "authorized"),
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "yes",
            "PermitUserRC": "no",
            "SetEnv": " ".join(f'"{name}={value}"' for name, value in environment.items()),
        }
        (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self.identify(folder / "id")
        server = _find("sshd")
        assert server is not None
        with open(folder / "log", "ab") as log:
            command = [server, "-D", "-e", "-f", str(folder / "sshd_config")]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._await_ready()

    def __enter__(self) -> Sshd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()

    @property
    def command(self) -> str:
        """The ``ssh`` that knows this server, for TRUN_SSH."""
        return shlex.join(["ssh", "-F", str(self.folder / "ssh_config")])

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def know(self, key: str) -> None:
        """Let the client know this host key and no other; an empty one: none."""
        line = f"[127.0.0.1]:{self.port} {key}" if key else ""
        (self.folder / "known_hosts").write_text(line)

    def identify(self, key: Path) -> None:
        """Let the client show this key."""
        settings = {
            "IdentityFile": str(key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "yes",
            "User": getpass.getuser(),
        }
        lines = "".join(f"  {name} {value}\n" for name, value in settings.items())
        (self.folder / "ssh_config").write_text(f"Host *\n{lines}")

    def _await_ready(self) -> None:
        end = time.monotonic() + READY_S
        tick = threading.Event()
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "sshd did not listen"
            tick.wait(0.02)
