"""Where to look: the services of this user that answer now, and the records of runs that have ended.

A *place* is a state folder with a journal: a run folder of some script, or a folder that was named. While its node
lives it is asked over its socket; afterwards the same questions are answered from its record (``engine.offline``), by
the same functions. A word for a job is looked for in what lives first, then in the newest record that has it.

Does not print. Who may come in: the verbs. Rule: looking changes nothing, neither a folder nor a job.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from trun.adapters import folders
from trun.errors import NotAuthorised, ServiceUnavailable, StateDamaged, StateError, TrunError, UnknownName, nearest
from trun.service import Service

#: Seconds that a living service may take to greet, and to answer a question.
GREET_S = 5.0
ANSWER_S = 30.0
#: Seconds that a goodbye may take.
LEAVE_S = 2.0
#: Records of ended runs that are looked through for a job, the newest first.
RECORDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A state folder with a journal."""

    folder: Path
    #: Name of the folder; for the services of scripts that is the name of the run.
    run: str
    #: What the service is called.
    name: str = "local"
    #: Where it answers; empty where nobody does.
    address: str = ""
    pid: int = 0
    #: Process that a private service belongs to.
    owner: int = 0
    #: Live: since when it is held; ended: when its record was written last. Seconds since the epoch.
    since: float = 0.0
    #: Whether it is a service of somebody else, or on another machine: known by name and address only.
    is_far: bool = False
    #: Whether it is a daemon's (``trun service start``), not that of a script.
    is_service: bool = False

    @property
    def prefix(self) -> str:
        """What a job's id needs in front of it in further commands."""
        return f"{self.run}/" if self.is_far else ""

    @property
    def again(self) -> str:
        """The command that carries on what was left unfinished, where one of ours does."""
        if self.is_far:
            return ""
        return f"trun service start --name {self.name}" if self.is_service else f"trun resume {self.run}"

    @property
    def live(self) -> bool:
        """Whether a service answers for it."""
        return bool(self.address)


class Source(Protocol):
    """Answers reading verbs about one place."""

    place: Place

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Return plain data."""
        ...

    def close(self) -> None:
        """End what was opened."""
        ...


class LiveSource:
    """A service that answers now."""

    def __init__(self, place: Place) -> None:
        from trun.connect import attach
        from trun.remotes import remote_service

        self.place = place
        self.service: Service = remote_service(place.name) if place.is_far else attach(place.address, name=place.name)
        self.service.on_down = self._down
        try:
            self.service.wait_ready(GREET_S)
        except TrunError:
            self.close()
            raise

    def _down(self) -> ServiceUnavailable | None:
        """Say whether the broken connection is the end of the service (in the link's thread)."""
        if self.place.is_far:
            return None
        for _ in range(50):
            if folders.holder(self.place.folder) is None:
                return ServiceUnavailable(f"the service of run {self.place.run} has ended.")
            threading.Event().wait(0.02)
        return None

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Return the service's answer."""
        try:
            return self.service.ask(verb, wait=ANSWER_S, **arguments)
        except NotAuthorised:
            if verb != "which":
                raise
        # Who may see jobs of their own alone cannot look for names, but can ask for one of them.
        return {"jobs": [self.service.ask("job", wait=ANSWER_S, **arguments)], "near": []}

    def close(self) -> None:
        """Leave the service alone: it goes on."""
        if self.service.welcome is None:
            self.service.give_up(ServiceUnavailable(f"the service of run {self.place.run} does not answer."))
        with contextlib.suppress(TrunError):
            self.service.close(timeout=LEAVE_S)


class EndedSource:
    """The record of a run that has ended."""

    def __init__(self, place: Place) -> None:
        from trun.engine.offline import Record

        self.place = place
        self._record = Record(place.folder, name=place.name)

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Return what the record says."""
        return self._record.ask(verb, **arguments)

    def close(self) -> None:
        """Close the journal."""
        self._record.close()


def open_source(place: Place) -> Source:
    """Return who answers for a place: its service, or its record where the service has just gone."""
    if place.live:
        try:
            return LiveSource(place)
        except ServiceUnavailable:
            if place.is_far or folders.holder(place.folder) is not None:
                raise
    return EndedSource(place)


# -- which places there are -------------------------------------------------------------------------------------------


def all_places() -> list[Place]:
    """Return the places of this user: those that live, then the records, the newest first in both."""
    found = [place for place in map(place_of, folders.run_folders()) if place is not None]
    found += _services_here()
    known = {place.address for place in found}
    found += [place for place in _other_services(known)]
    return sorted(found, key=lambda place: (not place.live, -place.since))


def _services_here() -> list[Place]:
    """Return the places of the services that this user has started on this machine, whether they live or not."""
    from trun.adapters.known import known_services

    found = ((known, place_of(Path(known.folder))) for known in known_services() if known.folder)
    return [replace(place, run=known.name, name=known.name, is_service=True) for known, place in found if place]


def elsewhere() -> str:
    """Return the names of services that this user has written down and that are asked by name alone, as a remark."""
    from trun.adapters.known import known_services

    names = [known.name for known in known_services() if not known.folder]
    return f"; elsewhere there are {', '.join(names[:5])} (--service {names[0]})" if names else ""


def place_of(folder: Path) -> Place | None:
    """Return the place in a folder, or None where no service has ever kept a record."""
    journal = folder / "journal.sqlite"
    try:
        written = max(path.stat().st_mtime for path in (journal, Path(f"{journal}-wal")) if path.exists())
    except ValueError:
        return None
    holder = folders.holder(folder)
    facts: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads((folder / "node.json").read_text())
    name = str(facts.get("name") or _noted_name(folder))
    if holder is None or facts.get("pid") != holder.pid:
        return Place(folder=folder, run=folder.name, name=name, since=written)
    return Place(
        folder=folder,
        run=folder.name,
        name=name,
        address=str(facts.get("address", "")),
        pid=holder.pid,
        owner=int(facts.get("owner") or 0),
        since=holder.since or written,
    )


def _noted_name(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return (folder / folders.NAME).read_text() or "local"
    return "local"


def _other_services(known: set[str]) -> Iterator[Place]:
    """Give the services on sockets of the runtime folder whose state folder lies elsewhere."""
    for path in sorted(folders.runtime_folder().glob("*.sock")):
        address = f"ipc://{path}"
        if address in known or not _listens(path):
            continue
        try:
            source = LiveSource(Place(folder=path, run=path.stem, address=address))
        except TrunError:
            continue
        folder = Path(source.service.wait_ready().folder)
        source.close()
        place = place_of(folder)
        if place is not None and place.live:
            yield place


def _listens(path: Path) -> bool:
    """Whether somebody answers on a socket file, which may be left over."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def chosen_places(service: str | None, folder: str | None) -> list[Place]:
    """Return the places that ``--service`` and ``--state`` leave.

    Raises
    ------
    UnknownName
        No service and no run has that name.
    StateError
        There is no journal in the folder.
    """
    if folder:
        place = place_of(Path(folder).expanduser().absolute())
        if place is None:
            raise StateError(f"there is no journal of trun in the folder {folder}.")
        return [place]
    places = all_places()
    return places if not service else named_places(places, service)


def named_places(places: Sequence[Place], name: str) -> list[Place]:
    """Return the places whose run or service has this name, or whose run begins with it."""
    for matches in _MATCHES:
        found = [place for place in places if matches(place, name)]
        if found:
            return found
    far = _known_place(name)
    if far is not None:
        return [far]
    from trun.adapters.known import known_services

    names = [word for place in places for word in (place.run, place.name)]
    known = [*dict.fromkeys([*names, *(service.name for service in known_services())])]
    raise UnknownName(f"there is no service and no run {name!r}.", name=name, known=known)


def _known_place(name: str) -> Place | None:
    """Return the place of a service that this user has written down, or None."""
    from trun.adapters.known import known_services

    known = next((service for service in known_services() if service.name == name), None)
    if known is None:
        return None
    return Place(folder=Path("/", name), run=name, name=name, address=known.address, is_far=True)


#: How a name may mean a place, the strictest first.
_MATCHES: tuple[Callable[[Place, str], bool], ...] = (
    lambda place, name: place.run == name or (place.live and place.name == name),
    lambda place, name: place.name == name,
    lambda place, name: place.run.startswith(name),
)


# -- which job is meant -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A job and who answers for it."""

    source: Source
    #: What ``views.facts`` says of it.
    job: dict[str, Any]

    @property
    def uid(self) -> str:
        """Its identity."""
        return str(self.job["uid"])

    @property
    def id(self) -> str:
        """Its display name."""
        return str(self.job["id"])


class Search:
    """Finds jobs by word, and keeps each place open until ``close``. Use it in a ``with``."""

    def __init__(self, places: Sequence[Place], *, opener: Callable[[Place], Source] = open_source) -> None:
        self.places = list(places)
        #: Run -> why its service, which lives, does not answer, or why its record cannot be read.
        self.silent: dict[str, TrunError] = {}
        self._opener = opener
        self._open: dict[Path, Source] = {}

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        for source in self._open.values():
            source.close()
        self._open = {}

    def source(self, place: Place) -> Source:
        """Return who answers for a place."""
        found = self._open.get(place.folder)
        if found is None:
            found = self._open[place.folder] = self._opener(place)
        return found

    def sources(self, places: Sequence[Place] | None = None) -> Iterator[Source]:
        """Give who answers for places (default: all), one by one; a service that is stuck does not stand in the way."""
        for place in self.places if places is None else places:
            if place.run not in self.silent:
                try:
                    yield self.source(place)
                except (ServiceUnavailable, StateDamaged) as error:
                    self.silent[place.run] = error

    def silent_records(self) -> Iterator[Source]:
        """Give the records of services that live and do not answer, where they can be read here."""
        for place in self.places:
            if isinstance(self.silent.get(place.run), ServiceUnavailable) and not place.is_far:
                with contextlib.suppress(StateError):
                    source = EndedSource(place)
                    yield source
                    source.close()

    def refuse_silence(self) -> None:
        """Raise what the first service that did not answer left behind, if there is one."""
        for error in self.silent.values():
            raise error

    def reopen(self, place: Place) -> Source:
        """Look at a place again: its service may have ended, or another may have begun."""
        old = self._open.pop(place.folder, None)
        if old is not None:
            old.close()
        return self.source(place_of(place.folder) or place)

    def job(self, word: str) -> Found:
        """Return the job that a word means.

        Raises
        ------
        UnknownName
            There is none, or there are several; the text names the nearest, or those that could be meant.
        """
        places, wanted = self._narrow(word)
        live = [place for place in places if place.live]
        ended = [place for place in places if not place.live][:RECORDS]
        near: list[str] = []
        for group in (live, *([place] for place in ended)):
            found = self._candidates(group, wanted, near)
            if len(found) == 1:
                return found[0]
            if found:
                raise UnknownName(_several(word, found))
        self.refuse_silence()
        raise UnknownName(f"{_nowhere(word, live, ended)}{nearest(wanted, near)}", name=wanted)

    def _narrow(self, word: str) -> tuple[list[Place], str]:
        """Split ``RUN/JOB``; a word whose first part is no run is a job as a whole."""
        run, slash, job = word.partition("/")
        if slash and run and job:
            with contextlib.suppress(UnknownName):
                return named_places(self.places, run), job
        return self.places, word

    def _candidates(self, places: Sequence[Place], wanted: str, near: list[str]) -> list[Found]:
        found = []
        for source in self.sources(places):
            answer = source.ask("which", job=wanted)
            found += [Found(source, job) for job in answer["jobs"]]
            near += answer["near"]
        return found


def _several(word: str, found: Sequence[Found]) -> str:
    shown = [f"{each.source.place.run}/{each.id}" for each in found[:6]]
    more = f" and {len(found) - 6} more" if len(found) > 6 else ""
    return f"{word!r} may be one of {len(found)} jobs: {', '.join(shown)}{more}."


def _nowhere(word: str, live: Sequence[Place], ended: Sequence[Place]) -> str:
    if not live and not ended:
        return f"there is no job {word!r}: no service answers and no run is on record{elsewhere()}."
    far = "" if any(place.is_far for place in live) else elsewhere()
    return f"there is no job {word!r} in {_number(live, 'live service')} and {_number(ended, 'ended run')}{far}."


def _number(places: Sequence[Place], noun: str) -> str:
    from trun.cli.text import count

    return count(len(places), noun)
