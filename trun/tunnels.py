"""A service on a machine that lets ssh in and nothing else: asked about and reached with the user's own ssh.

``Tunnel`` asks ``trun service status`` on the other machine where the service listens, and forwards a socket of ours to
it. The ssh that does it is kept: when it ends, another one takes its place at the same socket, so that a broken
connection is silence and no end. Keys, agents, jump hosts and names are ssh's own matter and the user's configuration.

Knows neither jobs nor messages. Rule: nothing is asked of the person at the terminal (BatchMode); what ssh refuses
is told with what can be done about it. ``TRUN_SSH`` is the command, with options if need be.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from trun.adapters import folders
from trun.errors import BadOption, NotAuthorised, ServiceKeyChanged, ServiceUnavailable, TrunError, UnknownName

_log = logging.getLogger(__name__)

#: Seconds that a question and a tunnel may take, and pauses before a broken one is opened again.
TUNNEL_S = 30.0
PAUSE_S, LONGEST_PAUSE_S = 0.25, 10.0
#: A half-open connection ends after so many unanswered questions, so many seconds apart.
ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
#: Exit codes: of ssh itself, and of a shell that knows no such command.
SSH_FAILED, NO_COMMAND = 255, 127


class Forward:
    """One forwarded socket, opened again whenever ssh ends.

    Parameters
    ----------
    ssh
        The command, up to the host.
    here, there
        What ssh forwards: ``/path`` or ``127.0.0.1:port``, and ``/path`` or ``host:port``.
    """

    def __init__(self, ssh: list[str], here: str, there: str, *, address: str) -> None:
        self._ssh, self._here, self._there, self._address = ssh, here, there, address
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._process, self._words = self._open()
        threading.Thread(target=self._keep, name="trun-tunnel", daemon=True).start()

    @property
    def pid(self) -> int:
        """The process of ssh at the moment."""
        return self._process.pid

    def _open(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start ssh and wait until the socket can be used."""
        if self._here.startswith("/"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._here)
        words = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as ssh does
        # It ends with the command ``cat``, and that when we do, however that comes.
        process = subprocess.Popen(
            [*self._ssh[:-1], *ALIVE, *_FORWARDS, "-L", f"{self._here}:{self._there}", self._ssh[-1], "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,  # Ctrl-C is for the script, which says goodbye first
        )
        deadline = time.monotonic() + TUNNEL_S
        while not self._is_open():
            if process.poll() is not None or time.monotonic() > deadline or self._closed.is_set():
                _end(process)
                raise self._error(process, words)
            self._closed.wait(0.02)
        return process, words

    def _is_open(self) -> bool:
        if self._here.startswith("/"):
            return Path(self._here).exists()
        host, _, port = self._here.rpartition(":")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex((host, int(port))) == 0

    def _error(self, process: subprocess.Popen[bytes], words: IO[bytes]) -> TrunError:
        words.seek(0)
        said = words.read(65536).decode(errors="replace")
        words.close()
        return refusal(self._address, self._ssh, said, process.returncode or 0)

    def _keep(self) -> None:
        """Open it again whenever it ends, until we are closed."""
        pause = PAUSE_S
        while True:
            self._process.wait()
            if self._closed.is_set():
                return
            _log.info("a tunnel has ended and is opened again address=%s", self._address)
            while not self._closed.wait(pause):
                began = time.monotonic()
                try:
                    opened, words = self._open()
                except (TrunError, OSError) as error:
                    _log.warning("a tunnel cannot be opened address=%s reason=%s", self._address, error)
                    pause = min(2 * pause, LONGEST_PAUSE_S)
                    continue
                with self._lock:
                    self._discard()
                    self._process, self._words = opened, words
                pause = PAUSE_S if time.monotonic() - began < LONGEST_PAUSE_S else pause
                break
            if self._closed.is_set():
                _end(self._process)  # which may have been opened after ``close`` had looked
                return

    def _discard(self) -> None:
        _end(self._process)
        self._words.close()

    def close(self) -> None:
        """End ssh; the socket goes."""
        self._closed.set()
        with self._lock:
            self._discard()
        if self._here.startswith("/"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._here)


_FORWARDS = (
    *("-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=ERROR", "-o", "StreamLocalBindMask=0177"),
    *("-o", "ControlMaster=no", "-o", "ControlPath=none"),
)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Tunnel:
    """The way to a service at ``ssh://[user@]host[:port][/NAME]``."""

    def __init__(self, address: str) -> None:
        rest = address.partition("://")[2]
        host, _, wanted = rest.partition("/")
        wanted = wanted.strip("/")
        where, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            where, port = host, ""
        if not where or where.startswith("-") or wanted.startswith("-") or (port and not port.isdigit()):
            raise BadOption(f"{address!r} is no ssh://[user@]host[:port][/NAME].")
        self.address = address
        #: What the service is called there, or else the host.
        self.name = wanted or where
        self._wanted = wanted
        command = shlex.split(os.environ.get("TRUN_SSH", "")) or ["ssh"]
        self._ssh = [*command, "-o", "BatchMode=yes", *(["-p", port] if port else []), where.strip("[]")]
        self._forwards: dict[str, Forward] = {}
        self._ports: dict[str, int] = {}
        self._lock = threading.Lock()

    def status(self) -> dict[str, Any]:
        """Return what ``trun service status`` says there.

        Raises
        ------
        NotAuthorised
            ssh was not let in, or the host is not the one that ssh knows.
        UnknownName
            There is no such service there.
        ServiceUnavailable
            The host, ssh, trun or the service cannot be had; the text says which.
        """
        words = shlex.join(word for word in ("trun", "service", "status", self._wanted, "--json") if word)
        try:
            asked = subprocess.run(
                [*self._ssh, words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TUNNEL_S,
                check=False,
            )
        except FileNotFoundError:
            raise ServiceUnavailable(
                f"{self.address}: there is no command {self._ssh[0]!r} here; install OpenSSH's client, or name another "
                "command with TRUN_SSH."
            ) from None
        except subprocess.TimeoutExpired:
            raise ServiceUnavailable(f"{self.address}: {self._ssh[-1]} did not answer within {TUNNEL_S:g} s.") from None
        facts = _facts(asked.stdout)
        if facts.get("state") == "unreachable":
            raise ServiceUnavailable(
                f"{self.address}: the service does not run there ({facts.get('reason', 'no reason is known')}); on "
                f"{self._ssh[-1]}: trun service start --name {facts.get('name', self.name)}"
            )
        if asked.returncode or not isinstance(facts.get("address"), str):
            raise refusal(self.address, self._ssh, asked.stderr, asked.returncode)
        return facts

    def open(self, there: str) -> str:
        """Forward a socket of ours to an address there; return ours."""
        here = folders.runtime_folder() / f"ssh-{os.getpid()}-{secrets.token_hex(4)}.sock"
        folders.check_socket_path(str(here))
        self._forwards[there] = Forward(self._ssh, str(here), _target(there), address=self.address)
        return f"ipc://{here}"

    def reach(self, address: str) -> str:
        """Return where the port for large data (``tls://host:port`` there) can be reached here."""
        target = _target(address)
        with self._lock:
            if target not in self._ports:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    port = free.getsockname()[1]
                self._forwards[target] = Forward(self._ssh, f"127.0.0.1:{port}", target, address=self.address)
                self._ports[target] = port
            return f"tls://127.0.0.1:{self._ports[target]}"

    @property
    def pids(self) -> list[int]:
        """The processes of ssh at the moment."""
        return [forward.pid for forward in self._forwards.values()]

    def close(self) -> None:
        """End all."""
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()


def _facts(text: str) -> dict[str, Any]:
    """Return the JSON object of an answer; whatever a login shell printed before it is passed over."""
    with contextlib.suppress(ValueError):
        found = json.loads(text[text.index("{") :])
        if isinstance(found, dict):
            return found
    return {}


def _target(address: str) -> str:
    """Return an address as ssh names the far end of a forward."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return rest
    host, _, port = rest.rpartition(":")
    return f"{'127.0.0.1' if host in ('0.0.0.0', '[::]', '::', '*') else host}:{port}"


def refusal(address: str, ssh: list[str], said: str, code: int) -> TrunError:
    """Return the error for what ssh, or the command there, said."""
    host = ssh[-1]
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit code {code}"
    if "IDENTIFICATION HAS CHANGED" in said:
        return ServiceKeyChanged(
            f"{address}: the host key of {host} is not the one that ssh knows: somebody may be in between. If its "
            f"administrator confirms the new key: ssh-keygen -R {host}, then `ssh {host}` by hand. Nothing was sent."
        )
    if "Host key verification failed" in said:
        return NotAuthorised(
            f"{address}: ssh does not know the host key of {host} yet; run `ssh {host}` once by hand and compare it."
        )
    if "Permission denied" in said:
        return NotAuthorised(
            f"{address}: ssh was not let in ({last}). Nobody is asked for a password here: load the key into an "
            f"ssh-agent or name it in ssh's configuration, until `ssh -o BatchMode=yes {host} true` works."
        )
    if code == NO_COMMAND:
        return ServiceUnavailable(
            f"{address}: there is no trun on {host} ({last}); install it so that `ssh {host} trun --version` works."
        )
    if code == SSH_FAILED or not lines:
        return ServiceUnavailable(f"{address}: ssh cannot reach {host}: {last}")
    if "no known service" in said or "no service" in said:
        return UnknownName(f"{address}: {lines[0].removeprefix('trun: ')}")
    return ServiceUnavailable(f"{address}: {lines[0].removeprefix('trun: ')} (on {host})")


__all__ = ["Forward", "Tunnel", "refusal"]
