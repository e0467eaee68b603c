"""An offline checker: what clients were told, against what the journal says, after everything has ended.

``check`` takes the state folder of a service that is stopped, what each client wrote down, and what the payloads wrote
themselves; it returns figures, or raises with the first few violations. The invariants:

* acknowledged jobs are in the journal, under the id that was acknowledged;
* each run of a job has one outcome, it is the last entry of its stream, and it is what clients were told;
* streams are numbered from 1 without a gap, and every reader saw the same entries under the same numbers;
* attempts have growing epochs, and no payload was begun twice under one epoch;
* progress that was published comes in the order in which the payload said it.

Knows nothing of how the history came about. Rule: it reads, it never repairs, and it imports nothing of the engine.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from trun.adapters.sqlite import SqliteJournal
from trun.core.codec import decode_life
from trun.messages import FINAL, Completed, Entry, Said, Started

_SHOWN = 10


class Note(msgspec.Struct, frozen=True):
    """Something that a client wrote down at the moment at which it was told."""

    client: str
    #: acked, outcome, entry
    kind: str
    uid: str
    #: Display id of an acknowledged job; name of the outcome's class.
    name: str = ""
    #: Plain result of a completed job.
    value: Any = None
    entry: Entry | None = None


class Notebook:
    """What one client writes down: a file, so that it outlives the client."""

    def __init__(self, path: Path, client: str) -> None:
        self._file = path.open("ab")
        self._client = client

    def write(self, kind: str, uid: str, **facts: Any) -> None:
        """Write a line."""
        self._file.write(_encode(Note(client=self._client, kind=kind, uid=uid, **facts)) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode


def read_notes(paths: Iterable[Path]) -> list[Note]:
    """Return what clients wrote down."""
    return [_decode(line) for path in paths for line in path.read_bytes().splitlines() if line.strip()]


def check(folder: Path, notes: list[Note], begun: Iterable[str] = ()) -> dict[str, int]:
    """Check all invariants; ``begun`` holds a line ``uid:epoch`` for each time that a payload began."""
    journal = SqliteJournal(folder)
    try:
        lives = {stored.spec.uid: decode_life(stored.life) for stored in journal.jobs()}
        names = {stored.spec.uid: f"{stored.spec.name}#{decode_life(stored.life).number}" for stored in journal.jobs()}
        streams = {uid: journal.entries(uid, 1, 1_000_000) for uid in lives}
    finally:
        journal.close()
    faults: list[str] = []
    acked = [note for note in notes if note.kind == "acked"]
    for note in acked:
        if note.uid not in lives:
            faults.append(f"{note.client}: acknowledged {note.name} ({note.uid}) is lost")
        elif note.name and names[note.uid] != note.name:
            faults.append(f"{note.client}: acknowledged as {note.name}, the journal has {names[note.uid]}")
    for uid, entries in streams.items():
        faults.extend(f"{names[uid]}: {fault}" for fault in _check_stream(entries, lives[uid].seq, lives[uid].run))
    faults.extend(_check_readers(streams, names, notes))
    faults.extend(_check_outcomes(streams, names, notes))
    twice = [line for line, times in Counter(begun).items() if times > 1]
    faults.extend(f"payload begun twice under one epoch: {line}" for line in twice)
    if faults:
        raise AssertionError(f"{len(faults)} violations:\n" + "\n".join(faults[:_SHOWN]))
    return {
        "jobs": len(lives),
        "acknowledged": len({note.uid for note in acked}),
        "entries": sum(map(len, streams.values())),
        "read": sum(note.kind == "entry" for note in notes),
        "attempts": sum(isinstance(entry.event, Started) for entries in streams.values() for entry in entries),
    }


def _check_stream(entries: list[Entry], last: int, runs: int) -> Iterable[str]:
    numbers = [entry.seq for entry in entries]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"its stream has the numbers {numbers}"
    if last != len(numbers):
        yield f"its record says {last} entries, its stream has {len(numbers)}"
    ends = [place for place, entry in enumerate(entries) if isinstance(entry.event, FINAL)]
    if len(ends) != runs or ends[-1] != len(entries) - 1:
        yield f"it has outcomes at {ends} of {len(entries)} entries, in {runs} runs"
    epochs = [entry.event.epoch for entry in entries if isinstance(entry.event, Started)]
    if any(second <= first for first, second in itertools.pairwise(epochs)):
        yield f"its epochs do not grow: {epochs}"
    said: list[Any] = []
    for entry in entries:
        if isinstance(entry.event, Started):
            said = []
        elif isinstance(entry.event, Said) and isinstance(entry.event.value, int):
            said.append(entry.event.value)
            if said != list(range(len(said))):
                yield f"it said {said} in attempt {epochs[-1]}"
                return
        elif isinstance(entry.event, Completed) and entry.event.values.get("said", len(said)) != len(said):
            yield f"it said {entry.event.values['said']} things, its stream has {len(said)}"


def _check_readers(streams: dict[str, list[Entry]], names: dict[str, str], notes: list[Note]) -> Iterable[str]:
    seen: dict[tuple[str, str], int] = {}
    for note in notes:
        entry = note.entry
        if entry is None or note.uid not in streams:
            continue
        place = (note.client, note.uid)
        if entry.seq != seen.get(place, 0) + 1:
            yield f"{note.client} read number {entry.seq} of {names[note.uid]} after {seen.get(place, 0)}"
        seen[place] = entry.seq
        written = streams[note.uid]
        if entry.seq > len(written) or _bare(written[entry.seq - 1]) != _bare(entry):
            yield f"{note.client} read {entry} in {names[note.uid]}, which the journal does not have"


def _bare(entry: Entry) -> str:
    """Return an entry as text; both sides went through JSON."""
    return json.dumps(msgspec.to_builtins(entry, builtin_types=()), sort_keys=True, default=str)


def _check_outcomes(streams: dict[str, list[Entry]], names: dict[str, str], notes: list[Note]) -> Iterable[str]:
    for note in notes:
        if note.kind != "outcome" or not streams.get(note.uid):
            continue
        event = streams[note.uid][-1].event
        if type(event).__name__ != note.name:
            yield f"{note.client} was told that {names[note.uid]} ended {note.name}, it ended {type(event).__name__}"
        elif isinstance(event, Completed) and note.value is not None and event.values.get("result") != note.value:
            yield f"{note.client} got {note.value} of {names[note.uid]}, the journal has {event.values}"
