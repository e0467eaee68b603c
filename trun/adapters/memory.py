"""The journal in memory: the contract of ``ports.Journal`` without a disk.

For tests, for demonstrations, and for a service whose record nobody needs after its end. It keeps values, not
bytes, so it is the fastest journal and says nothing about durability; ``reopen`` plays the restart of a service on
the same store.

Who may come in: whoever composes a service, and the tests. Rule: it refuses whatever the durable journal refuses.
"""

from __future__ import annotations

import bisect
import secrets
from collections.abc import Iterator

from trun.core.codec import decode_life
from trun.core.record import Life
from trun.errors import InvariantError
from trun.messages import Entry, JobSpec
from trun.ports import Batch, StoredJob


class _Store:
    """What survives ``reopen``."""

    def __init__(self) -> None:
        self.service_key = secrets.token_hex(16)
        self.epoch = 0
        self.specs: dict[int, JobSpec] = {}
        self.numbers: dict[str, int] = {}
        self.lives: dict[int, bytes] = {}
        self.streams: dict[str, dict[int, Entry]] = {}
        self.groups: dict[str, bytes] = {}
        self.definitions: dict[str, bytes] = {}


class MemoryJournal:
    """A journal that is gone with the process. Implements ``ports.Journal``."""

    #: Never short of space (see ``SqliteJournal.full``).
    full = False

    def __init__(self, *, _store: _Store | None = None) -> None:
        self.full = False
        self._store = _store or _Store()
        self._store.epoch += 1
        self._epoch = self._store.epoch

    def reopen(self) -> MemoryJournal:
        """Return a journal over the same store, one epoch later, as after a restart."""
        return MemoryJournal(_store=self._store)

    def meta(self) -> dict[str, str]:
        """Return the facts about the store: ``service_key``, ``epoch``, ``version``."""
        return {"service_key": self._store.service_key, "epoch": str(self._epoch), "version": "1"}

    def commit(self, batch: Batch) -> None:
        """Keep the batch, all of it or nothing."""
        store = self._store
        for number, spec in batch.specs:
            if number in store.specs or spec.uid in store.numbers:
                raise InvariantError(f"the journal has job {spec.uid} already")
        seen = set()
        for number, entry in batch.entries:
            place = (entry.stream, entry.seq)
            if number and (place in seen or entry.seq in store.streams.get(entry.stream, ())):
                raise InvariantError(f"the journal has entry {entry.seq} of stream {entry.stream} already")
            seen.add(place)
        for number, spec in batch.specs:
            store.specs[number] = spec
            store.numbers[spec.uid] = number
        store.lives.update(batch.lives)
        for _, entry in batch.entries:
            store.streams.setdefault(entry.stream, {}).setdefault(entry.seq, entry)
        store.groups.update(batch.groups)
        for digest, data in batch.definitions:
            store.definitions.setdefault(digest, data)

    def jobs(self, *, live_only: bool = False) -> Iterator[StoredJob]:
        """Yield the jobs in order of number."""
        for number, life in sorted(self._store.lives.items()):
            found: Life = decode_life(life)
            if not (live_only and found.state.is_final):
                yield StoredJob(number=number, spec=self._store.specs[number], life=life)

    def groups(self) -> list[tuple[str, bytes]]:
        """Return (uid, encoded group) of each group."""
        return list(self._store.groups.items())

    def definition(self, digest: str) -> bytes | None:
        """Return the bytes that were defined under ``digest``."""
        return self._store.definitions.get(digest)

    def entries(self, stream: str, since: int = 1, limit: int = 1000) -> list[Entry]:
        """Return entries of one stream with seq >= since, in order, at most ``limit``."""
        found = self._store.streams.get(stream, {})
        if not found:
            return []
        seqs = sorted(found)
        start = bisect.bisect_left(seqs, since)
        return [found[seq] for seq in seqs[start : start + limit]]

    def last(self, stream: str) -> int:
        """Return the highest sequence number of a stream, 0 where it has no entry."""
        return max(self._store.streams.get(stream, {}), default=0)

    def entry(self, stream: str, seq: int) -> Entry | None:
        """Return one entry, or None where there is none."""
        return self._store.streams.get(stream, {}).get(seq)

    def close(self) -> None:
        """Nothing is held."""
