"""What is said of an order that was carried out, also where the service ended with it."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import samples
from trun.adapters.sqlite import SqliteJournal
from trun.cli.orders import OPEN, Order, _became
from trun.cli.places import Found, Place
from trun.cli.text import Paint
from trun.core.record import JobState
from trun.errors import ServiceUnavailable
from trun.messages import Cancel, Cancelled
from trun.ports import Batch

CANCEL = Order(lambda uids: Cancel(uids=uids), OPEN, "it has ended already", 0)


@dataclass
class Gone:
    """A service that does not answer any more."""

    place: Place

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        raise ServiceUnavailable("the service has ended.")

    def close(self) -> None:
        """Nothing was opened."""


@pytest.fixture
def journal(tmp_path: Path) -> SqliteJournal:
    made = SqliteJournal(tmp_path / "run")
    made.commit(samples.accepted(1, "u"))
    life = samples.life(1, JobState.CANCELLED, seq=2, final_seq=2)
    made.commit(Batch(lives=[(1, life)], entries=[(1, samples.entry("u", 2, Cancelled(reason="enough")))]))
    return made


def found(journal: SqliteJournal) -> Found:
    place = Place(folder=journal.path.parent, run="run", address="ipc:///gone")
    return Found(Gone(place), {"uid": "u", "id": "fit#1", "state": "waiting"})


def test_a_service_that_ended_with_its_last_job_is_answered_for_by_its_record(journal: SqliteJournal) -> None:
    journal.close()
    assert _became(found(journal), CANCEL, Paint(io.StringIO())) == "fit#1 is ⊘ cancelled"


def test_a_service_that_is_there_and_does_not_answer_is_unavailable(journal: SqliteJournal) -> None:
    facts = {"pid": os.getpid(), "address": "ipc:///gone"}
    (journal.path.parent / "node.json").write_text(json.dumps(facts))
    with pytest.raises(ServiceUnavailable):
        _became(found(journal), CANCEL, Paint(io.StringIO()))
    journal.close()
