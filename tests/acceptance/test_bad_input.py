"""Bad input: each fault gets one clear error that names the thing, the fault and the fix, where it can be known."""

from __future__ import annotations

import json
import os
import random
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

import trun
from trun.errors import CycleError, StateDamaged, StateHeld, StateVersion, TrunError

WAIT_S = 60.0


@pytest.fixture
def service() -> Iterator[trun.Service]:
    with trun.local(workers=2, resources={"gpu": 1}) as made:
        yield made
    made.close(cancel=True, timeout=30.0)


def add(*numbers: Any) -> Any:
    return sum(numbers)


def says(error: BaseException, *words: str) -> None:
    """See that a message has all these words, on one line that a person can read."""
    text = str(error)
    for word in words:
        assert word in text, text
    assert len(text) < 600
    assert "\n" not in text


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "fix"),
    [
        (lambda a, b: a and b, "&"),
        (lambda a, b: a or b, "|"),
        (lambda a, b: not a, "~"),
        (lambda a, b: bool(a), "&"),
        (lambda a, b: a == True, ""),  # noqa: E712
        (lambda a, b: a == 3, ""),
        (lambda a, b: a & 3, "3"),
        (lambda a, b: 1 if a else 2, "&"),
    ],
    ids=["and", "or", "not", "bool", "== True", "== 3", "& 3", "if"],
)
def test_truth_and_comparison_of_conditions_name_the_right_operator(
    service: trun.Service, use: Callable[[Any, Any], Any], fix: str
) -> None:
    a, b = trun.submit(add, 1), trun.submit(add, 2)

    with pytest.raises(TypeError) as caught:
        use(a.iscompleted, b.iscompleted)

    says(caught.value, fix)


def test_what_can_never_hold_is_refused_at_submit(service: trun.Service) -> None:
    a = trun.submit(add, 1)

    with pytest.raises(trun.NeverCondition) as caught:
        trun.submit(add, 1, when=a.iscompleted & a.isfailed)

    says(caught.value, "iscompleted", "isfailed", "can never hold")


def test_a_circle_is_refused_and_named(service: trun.Service) -> None:
    key = "later"
    uid = trun.submit(add, 1, key=key, when=trun.Atom("go")).uid  # a key is a job's name before it exists
    with trun.local(workers=1) as other:
        with pytest.raises(CycleError) as caught:
            trun.submit(add, 1, key=key, when=trun.IsCompleted(uid)).result(WAIT_S)
        other.close(cancel=True)

    says(caught.value, "add", "itself")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, a: s.job("ad#1").id, ("ad#1", "add#1")),
        (lambda s, a: s.job("fit#99").id, ("fit#99",)),
        (lambda s, a: trun.submit(add, resources={"gpus": 1}).id, ("gpus", "gpu")),
        (lambda s, a: trun.submit(add, resources={"gpu": 2}).id, ("gpu", "2", "1")),
        (lambda s, a: a.iscomplete, ("iscomplete", "iscompleted")),
        (lambda s, a: a.resutl, ("resutl", "result")),
        (lambda s, a: trun.options(prority=3).submit(add), ("prority", "priority")),
        (lambda s, a: trun.submit(add, retries=-1), ("retries", "-1")),
        (lambda s, a: trun.submit(add, timeout="5 parsecs"), ("timeout", "5 parsecs")),
        (lambda s, a: trun.submit(add, memory="lots"), ("memory", "lots")),
        (lambda s, a: trun.submit(add, on_never="shrug"), ("on_never", "shrug", "skip")),
        (lambda s, a: trun.submit(add, isolation="cosy"), ("isolation", "cosy", "fresh")),
        (lambda s, a: trun.submit(add, when=3), ("when", "iscompleted", "3")),
        (lambda s, a: trun.submit("add"), ("add",)),
        (lambda s, a: trun.job("fit#7"), ("service.job",)),
        (lambda s, a: trun.first(), ("first",)),
        (lambda s, a: trun.first(a, 3), ("1", "int")),
        (lambda s, a: a.improved("chisq <"), ("chisq <",)),
        (lambda s, a: trun.local(workers=0), ("workers", "0")),
        (lambda s, a: trun.local(executor="proceses"), ("proceses", "processes")),
        (lambda s, a: trun.parse("a & b c", {"a": a.iscompleted}), ()),
    ],
)
def test_unknown_names_and_bad_values_name_the_thing_and_the_nearest(
    service: trun.Service, call: Callable[[Any, Any], Any], words: tuple[str, ...]
) -> None:
    a = trun.submit(add, 1)
    assert a.id == "add#1"

    with pytest.raises((TrunError, AttributeError, TypeError)) as caught:
        call(service, a)

    says(caught.value, *words)


def test_alternatives_that_are_also_arguments_are_refused_with_a_hint_at_first(service: trun.Service) -> None:
    a, b = trun.submit(add, 1), trun.submit(add, 2)

    with pytest.raises(TrunError) as caught:
        trun.submit(add, a, b, when=a.iscompleted | b.iscompleted)

    says(caught.value, "first")


# -- values -----------------------------------------------------------------------------------------------------------


class Model:
    def __init__(self) -> None:
        self.lock = threading.Lock()


def make_model() -> Any:
    return {"models": [1, Model()]}


def test_an_argument_that_cannot_be_pickled_is_named_by_its_path(service: trun.Service) -> None:
    with pytest.raises(trun.NotPicklable) as caught:
        trun.submit(add, {"models": [1, Model()]})

    says(caught.value, "lock", "[1].lock", "'models'")


def test_a_result_that_cannot_be_pickled_is_named_by_its_path(service: trun.Service) -> None:
    with pytest.raises(trun.NotPicklable) as caught:
        trun.submit(make_model).result(WAIT_S)

    says(caught.value, "['models'][1].lock")


# -- state folders ----------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file" / "below", Path("/proc/trun")]
    if os.getuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        places.append(tmp_path / "closed")
    for place in places:
        with pytest.raises(trun.StateError) as caught:
            trun.local(state=place)
        says(caught.value, str(place), "choose another")


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    trun.local(state=tmp_path).close()
    (journal,) = tmp_path.glob("journal*.sqlite*") or tmp_path.glob("*.db")
    with sqlite3.connect(journal) as connection:
        connection.execute("PRAGMA user_version = 9999")
    connection.close()

    with pytest.raises(StateVersion) as caught:
        trun.local(state=tmp_path)

    says(caught.value, str(tmp_path), "newer")


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    trun.local(state=tmp_path).close()
    (journal,) = tmp_path.glob("journal*.sqlite*") or tmp_path.glob("*.db")
    journal.write_bytes(b"this is no journal at all " * 1000)

    with pytest.raises(StateDamaged) as caught:
        trun.local(state=tmp_path)

    says(caught.value, str(tmp_path))


def test_a_folder_that_is_held_is_refused_with_pid_and_since(tmp_path: Path) -> None:
    with trun.local(state=tmp_path) as service:
        with pytest.raises(StateHeld) as caught:
            trun.local(state=tmp_path)
        holder = service.wait_ready().pid
        service.close()

    assert caught.value.pid == holder
    assert caught.value.since > 1.7e9
    says(caught.value, str(tmp_path), str(holder))
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", str(caught.value))


# -- the socket -------------------------------------------------------------------------------------------------------


def test_garbage_on_the_socket_is_dropped_and_counted_and_the_service_lives(service: trun.Service) -> None:
    assert trun.submit(add, 1).result(WAIT_S) == 1
    chance = random.Random(7)
    path = service.address.removeprefix("ipc://")
    for size in (1, 10, 1000, 100_000):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(path)
        try:
            raw.sendall(chance.randbytes(size))
        except (BrokenPipeError, ConnectionResetError):
            pass
        raw.close()
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 5000
    dealer.connect(service.address)
    for size in (0, 1, 7, 200, 70_000):
        dealer.send(chance.randbytes(size))
    dealer.send_multipart([b"", b"\x91\xa5hello", b"x" * 100])
    dealer.send_multipart([b""] * 50)
    dealer.send(json.dumps({"type": "submit"}).encode())
    dealer.close()
    context.term()

    assert trun.submit(add, 1, 2).result(WAIT_S) == 3
    assert service.ask("summary")["dropped"] >= 5


# -- forks ------------------------------------------------------------------------------------------------------------


def test_a_service_in_a_forked_child_gives_the_clear_error(tmp_path: Path) -> None:
    script = tmp_path / "forks.py"
    script.write_text("""
import os, sys, time
import trun
from trun.errors import UsageError
service = trun.local(workers=1)
job = trun.submit(time.sleep, 0.3, service=service)
group = service.map(abs, [1])
child = os.fork()
if not child:
    for use in (lambda: service.submit(abs, 1), job.result, lambda: job.id, service.jobs, job.why, group.results):
        try:
            print("no error:", use())
        except UsageError as error:
            print(error, flush=True)
    service.close()
    sys.exit(0)
os.waitpid(child, 0)
print(job.result(), service.submit(abs, -3).result())
""")
    outcome = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=WAIT_S, check=True, cwd=tmp_path
    )

    *child, parent = outcome.stdout.splitlines()
    assert parent == "None 3"
    assert (
        child
        == [
            "service local was opened before a fork and cannot be used in the child; open one there: "
            "with trun.local(): ..."
        ]
        * 6
    )
    assert outcome.stderr == ""
