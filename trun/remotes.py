"""``remote_service()``: the handle of a service that runs somewhere, found by name, address, ssh or web.

A name is looked up among the known services; ``tcp://`` needs the key that the service must hold, once, and ours,
which is made at the first use; ``ipc://`` needs neither; ``ssh://`` opens a tunnel with the user's own ssh; ``https://``
reads address and key that an operator publishes. The connection is made again whenever it breaks.

Rule: no logic of jobs here; and nothing is believed of a key that was not written down or given.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from trun.errors import BadOption, NotAuthorised, ServiceUnavailable, TrunError, UsageError
from trun.messages import Answer, AnyAnswer, Ask
from trun.service import Service
from trun.silence import BEAT_S, PATIENCE_S

if TYPE_CHECKING:
    from trun.adapters.keys import KeyPair
    from trun.adapters.known import Known

#: Seconds that a service may take to greet us.
GREET_S = 10.0
#: Seconds that a silent service is waited for where the script ends by an error or Ctrl-C.
HURRY_S = 1.0


def remote_service(name: str, expect: str | None = None) -> Service:
    """Return the handle of a service that runs already, here or elsewhere.

    Jobs that are submitted to it outlive this script; ``service.job(id)`` finds them again. Reconnects by itself.

    Parameters
    ----------
    name
        Name of a known service (``trun service list``), ``tcp://host:port``, ``ipc:///path``, ``ssh://[user@]host[/NAME]``
        or ``https://host/path``.
    expect
        The 40-character public key that it must hold; default: the one that was written down.

    Raises
    ------
    UnknownName
        There is no known service of that name; the nearest is offered.
    NotAuthorised
        The service does not know our key; the text says which key to hand to whom.
    ServiceKeyChanged
        It is not the service that was written down.
    ServiceUnavailable
        Nobody answers.
    """
    if not isinstance(name, str) or not name:
        raise BadOption(f"a service is named by a text such as 'compufans' or 'tcp://host:port', not {name!r}.")
    scheme, separator, _ = name.partition("://")
    if not separator:
        return _known(name, expect)
    opening = {"ipc": _own, "tcp": _tcp, "ssh": _ssh, "https": _web}.get(scheme)
    if opening is None:
        raise BadOption(f"{name!r} is no address of a service: tcp://, ipc://, ssh:// and https:// are understood.")
    return opening(name, expect)


def _known(name: str, expect: str | None) -> Service:
    from trun.adapters.known import find, key_changed

    known = find(name)
    if expect is not None and expect != known.key:
        raise key_changed(known, expect)
    if known.address.startswith("tcp://"):
        return connect(known.address, name=known.name, key=known.key, trusted=known.trusted)
    opened = remote_service(known.address, known.key or None)
    opened.name = known.name
    opened.trusted = opened.trusted or known.trusted
    return opened


def _own(address: str, expect: str | None) -> Service:
    path = Path(address.removeprefix("ipc://"))
    if not path.exists():
        raise ServiceUnavailable(f"nobody answers at {address}: there is no such socket.")
    made = connect(address, name=path.stem)
    found = made.welcome.key if made.welcome is not None else ""
    if expect and found != expect:
        made.leave_quietly()
        raise _not_expected(made.name, address, expect, found)
    if made.welcome is not None:
        made.name = made.welcome.name
    return made


def _tcp(address: str, expect: str | None) -> Service:
    from trun.adapters.known import key_changed, known_services
    from trun.adapters.sockets import check_tcp

    check_tcp(address)
    known = next((service for service in known_services() if service.address == address), None)
    if known is not None:
        if expect is not None and expect != known.key:
            raise key_changed(known, expect)
        return connect(address, name=known.name, key=known.key, trusted=known.trusted)
    if expect is None:
        raise NotAuthorised(
            f"the key of the service at {address} is not known: ask its operator (`trun service status`), then "
            f"`trun service add NAME {address} --expect KEY`, or give expect=KEY."
        )
    return connect(address, name=address.removeprefix("tcp://"), key=expect, trusted=False)


def _web(address: str, expect: str | None) -> Service:
    """Read ``{"address": ..., "key": ...}`` that an operator publishes, and connect there."""
    from trun.adapters.known import Known, by_key, key_changed, known_services, remember
    from trun.published import read

    found = read(address)
    written = known_services()
    noted = next((one for one in written if one.address in (address, found.address)), None)
    if noted is not None and noted.key and noted.key != found.key:
        raise key_changed(noted, found.key)
    if expect is not None and expect != found.key:
        raise _not_expected(found.name, address, expect, found.key)
    known = noted or by_key(found.key)
    if known is None:
        is_taken = any(one.name == found.name for one in written)
        name = urllib.parse.urlsplit(address).netloc if is_taken else found.name
        known = Known(name=name, address=address, key="")
    if not known.key:  # the first contact; from now on another key is a hard stop
        known = remember(Known(name=known.name, address=address, key=found.key, trusted=known.trusted))
    return connect(found.address, name=known.name, key=found.key, trusted=known.trusted)


def _ssh(address: str, expect: str | None) -> Service:
    """Ask the other machine where the service listens, and forward its socket with the user's own ssh."""
    from trun.tunnels import Tunnel

    tunnel = Tunnel(address)
    facts = tunnel.status()
    there, key = str(facts.get("socket") or facts["address"]), str(facts.get("key") or "")
    if expect and key != expect:
        raise _not_expected(tunnel.name, address, expect, key)
    try:
        here = tunnel.open(there)
        # Through its owner's socket nobody asks for keys: ssh has said who we are, and which machine it is.
        made = connect(here, name=tunnel.name, key="" if there.startswith("ipc://") else key, trusted=False, near=False)
        if expect and made.wait_ready().key != expect:
            made.leave_quietly()
            raise _not_expected(tunnel.name, address, expect, made.wait_ready().key)
    except BaseException:
        tunnel.close()
        raise
    made.address, made.reach = address, tunnel.reach
    made.on_close = tunnel.close
    made.tunnel = tunnel
    return made


def _not_expected(name: str, address: str, expect: str, found: str) -> Exception:
    from trun.adapters.known import Known, key_changed

    return key_changed(Known(name=name, address=address, key=expect), found)


def connect(address: str, *, name: str, key: str = "", trusted: bool = True, near: bool = True) -> Service:
    """Connect to the service at ``address`` that holds ``key`` (none on the user's own socket)."""
    from trun.adapters.wire import Curve, Link

    made = Service(name=name, address=address, detach=True)
    made.trusted = trusted
    made.near = near and not key
    if key:
        from trun.adapters import agency
        from trun.adapters.keys import fingerprint, from_z85
        from trun.adapters.probe import probe

        from_z85(key)
        mine = agency.keys_for(agency.Where(name=name, address=address, key=key))
        link = Link(address, security=Curve(mine.secret, mine.public, server=key))
        # A network that takes connections and cuts them looks the same, and must end nothing.
        made.on_refused = lambda: (
            _another_key(name, address, fingerprint(key)) if probe(address, key) == "other" else None
        )
    else:
        link = Link(address)
    link.on_messages(made.heard)
    link.on_state(made.link_state)
    link.on_beat(made.beat, BEAT_S)
    made.attach(link)
    try:
        made.wait_ready(GREET_S)
    except BaseException:
        made.give_up(ServiceUnavailable(f"service {name} did not answer."))
        link.close(flush=False)
        raise
    if not _opened:
        atexit.register(_at_exit)
    _opened.append(made)
    return made


#: Handles of this process: what was submitted must have arrived when the interpreter ends.
_opened: list[Service] = []


def open_services() -> tuple[Service, ...]:
    """Return the services elsewhere to which this process has a handle now."""
    return tuple(made for made in _opened if not made.closed and made.gone is None and made._pid == os.getpid())


def _at_exit() -> None:
    """Wait for what was not acknowledged, as long as its service is heard, and say what was lost; exit with 4 then."""
    mine = [made for made in _opened if not made.closed and made._pid == os.getpid()]
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    end = time.monotonic() + (HURRY_S if error is not None else PATIENCE_S)
    is_lost = is_late = False
    for made in mine:
        if made.gone is not None:
            if made.lost:
                _say(str(made.gone))
            continue
        try:
            if made.waits_for_word:
                made.await_acknowledgement(None, max(0.0, end - time.monotonic()))
        except TrunError as late:
            is_lost = True
            _say(str(late))
        except KeyboardInterrupt:
            is_late, end = True, 0.0
            _say(f"interrupted; {made.unacknowledged_text()}")
        made.leave_quietly()
    if is_late:
        _leave(130)
    elif is_lost and error is None:
        _leave(4)


def _leave(code: int) -> None:
    """End with this exit code: nothing that is raised here would change it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    logging.shutdown()
    os._exit(code)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"trun: {text}", file=sys.stderr, flush=True)


def knock(known: Known, mine: KeyPair, *, name: str, reason: str) -> None:
    """Ask the operator of a service that does not know our key to let us in.

    Raises
    ------
    UsageError
        It is reached through a socket or ssh, where nobody asks for keys.
    ServiceKeyChanged
        It is not the service that was written down.
    ServiceUnavailable
        Nobody answers.
    """
    from trun.adapters.keys import fingerprint
    from trun.adapters.probe import probe
    from trun.adapters.wire import Curve, Link

    address, key = known.address, known.key
    if address.startswith(("ipc:", "ssh:")):
        raise UsageError(f"service {known.name} is reached at {address}, where nobody needs a key.")
    if address.startswith("https:"):
        from trun.published import read

        found = read(address)
        address, key = found.address, key or found.key
    if probe(address, key) == "other":
        raise _another_key(known.name, address, fingerprint(key))

    answered = threading.Event()

    def heard(answers: list[AnyAnswer]) -> None:
        if any(isinstance(answer, Answer) and answer.token == "knock" for answer in answers):
            answered.set()

    link = Link(address, security=Curve(mine.secret, mine.public, server=key))
    link.on_messages(heard)
    try:
        link.send([Ask(token="knock", verb="request-access", arguments={"name": name, "reason": reason})])
        if not answered.wait(GREET_S):
            raise ServiceUnavailable(f"service {known.name} at {address} does not answer.")
    finally:
        link.close()


def _another_key(name: str, address: str, expected: str) -> Exception:
    from trun.errors import ServiceKeyChanged

    return ServiceKeyChanged(
        f"whoever answers at {address} does not hold the key of service {name} ({expected}). Either the service has a "
        "new key, which its operator must confirm, or somebody is in between. Nothing was sent. With a confirmed key: "
        f"`trun service forget {name}`, then `trun service add {name} {address} --expect KEY`."
    )


__all__ = ["remote_service"]
