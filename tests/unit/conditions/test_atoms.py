"""Atoms: what messages mean to them, and that they settle once."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.conditions import (
    Atom,
    IsCompleted,
    IsFetched,
    IsMessage,
    IsProgress,
    IsReached,
    IsResult,
    JobAtom,
    Level,
    Value,
    after,
    at,
    before,
    changed,
    exists,
    free,
    held,
    url_ok,
)
from trun.conditions.atoms import JOB_ATOMS
from trun.conditions.timing import span_seconds
from trun.errors import BadOption, ConditionWarning
from trun.messages import (
    Aborted,
    Cancelled,
    Completed,
    Counted,
    Event,
    Failed,
    Improved,
    Lost,
    Progress,
    Queued,
    Said,
    Skipped,
    Started,
    Waiting,
)

C, N, W, T = Value.CANCELLED, Value.NEVER, Value.WAIT, Value.TRUE
ENDS: dict[str, Event] = {
    "completed": Completed(),
    "failed": Failed(kind="raised"),
    "aborted": Aborted(),
    "cancelled": Cancelled(),
    "skipped": Skipped(),
}
#: Rows: how the job ended; columns: what that means to each kind of atom.
TABLE = {
    #            completed failed aborted cancelled skipped started queued ended finished ok fetched message result
    "completed": (T, N, N, N, N, T, T, T, T, T, T, C, C),
    "failed": (C, T, N, N, N, T, T, T, T, C, C, C, C),
    "aborted": (C, N, T, N, N, T, T, T, T, C, C, C, C),
    "cancelled": (C, C, C, T, C, C, C, N, T, C, C, C, C),
    "skipped": (N, N, N, N, T, N, N, N, T, T, N, N, N),
}
KINDS = (
    "completed", "failed", "aborted", "cancelled", "skipped", "started", "queued", "ended", "finished", "ok", "fetched",
    "message", "result",
)  # fmt: skip
ARGUMENTS: dict[str, Any] = {"message": "x", "result": "x < 1"}


def atom_of(kind: str) -> JobAtom:
    return JOB_ATOMS[kind]("u", *([ARGUMENTS[kind]] if kind in ARGUMENTS else []))


@pytest.mark.parametrize(("end", "place"), list(itertools.product(TABLE, range(len(KINDS)))))
def test_every_end_of_a_job_means_what_the_table_says(end: str, place: int) -> None:
    atom = atom_of(KINDS[place])

    assert atom.judge(ENDS[end]) is TABLE[end][place]
    atom.see(ENDS[end])
    assert atom.value is TABLE[end][place]


def test_the_page_shows_the_same_table() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "conditions.md").read_text(encoding="utf-8")
    for end, row in TABLE.items():
        line = re.search(rf"^\| {end}(?: \(.*?\))? \|(.*)\|$", page, re.MULTILINE)
        assert line is not None, end
        own, completed, other, ended, finished, ok, unseen = (cell.strip() for cell in line[1].split("|"))
        values = dict(zip(KINDS, row, strict=True))

        assert own == values[end].name
        assert completed == values["completed"].name
        others = {values[kind].name for kind in ("failed", "aborted", "cancelled", "skipped") if kind != end}
        assert {other} == others
        assert (ended, finished, ok) == (values["ended"].name, values["finished"].name, values["ok"].name)
        assert unseen.endswith(values["message"].name)


def test_a_job_on_its_way_decides_what_it_has_reached() -> None:
    assert atom_of("queued").judge(Queued()) is T
    assert atom_of("queued").judge(Started()) is T
    assert atom_of("started").judge(Started()) is T
    assert atom_of("started").judge(Queued()) is None
    for kind in KINDS:
        for event in (Waiting(), Lost()):
            assert atom_of(kind).judge(event) is None


def test_messages_of_a_running_job_are_recognised() -> None:
    assert IsMessage("u", "go").judge(Said(name="go")) is T
    assert IsMessage("u", "go").judge(Said(name="stop")) is None
    assert IsResult("u", "chisq < 2").judge(Improved(values={"chisq": 1})) is T
    assert IsResult("u", "chisq < 2").judge(Improved(values={"chisq": 3})) is None
    assert IsResult("u", "chisq < 2").judge(Improved(values={"other": 1})) is None
    assert IsProgress("u", 0.5).judge(Progress(fraction=0.5)) is T
    assert IsProgress("u", 0.5).judge(Progress(fraction=0.49)) is None


def test_a_final_result_is_tested_before_the_stream_counts_as_over() -> None:
    assert IsResult("u", "chisq < 2").judge(Completed(values={"chisq": 1})) is T
    assert IsResult("u", "chisq < 2").judge(Completed(values={"chisq": 3})) is C
    assert IsResult("u", "chisq < 2").judge(Completed()) is C


def test_completion_satisfies_any_progress() -> None:
    assert IsProgress("u", 1.0).judge(Completed()) is T
    assert IsProgress("u", 0.0).judge(Failed(kind="raised")) is C


counts = st.fixed_dictionaries(dict.fromkeys(ENDS, st.integers(0, 3)))


@given(counts, st.integers(0, 3), st.booleans())
def test_a_group_is_judged_as_its_members_would_be(ended: dict[str, int], running: int, closed: bool) -> None:
    total = sum(ended.values()) + running
    count = Counted(total=total, closed=closed, **ended)
    bad = ended["failed"] + ended["aborted"] + ended["cancelled"]
    over = closed and not running

    raw = {kind: JOB_ATOMS[kind]("g").judge(count) for kind in ("completed", "ended", "finished", "ok", *ENDS)}

    completed = C if bad else N if ended["skipped"] else T if over else None
    assert raw["completed"] is completed
    assert raw["ok"] is (C if bad else T if over else None)
    assert raw["finished"] is (T if over else None)
    assert raw["ended"] is (N if ended["cancelled"] or ended["skipped"] else T if over else None)
    for kind in ("failed", "aborted", "cancelled", "skipped"):
        assert raw[kind] is (T if ended[kind] else N if over else None)


@given(counts, st.integers(0, 3), st.booleans(), st.integers(0, 12) | st.integers(0, 100).map(lambda n: f"{n}%"))
def test_a_share_of_a_group_is_dead_once_it_cannot_be_reached(
    ended: dict[str, int], running: int, closed: bool, share: int | str
) -> None:
    total = sum(ended.values()) + running
    verdict = IsReached("g", share).judge(Counted(total=total, closed=closed, **ended))

    if isinstance(share, str) and not closed:
        assert verdict is None
        return
    need = -(-int(share[:-1]) * total // 100) if isinstance(share, str) else share
    bad = ended["failed"] + ended["aborted"] + ended["cancelled"]
    if ended["completed"] >= need:
        assert verdict is T
    elif not closed or ended["completed"] + running >= need:
        assert verdict is None
    else:
        assert verdict is (N if total - bad >= need else C)


def test_an_atom_settles_once_and_a_contradiction_is_warned_about() -> None:
    atom = Atom("x")
    atom.set_ready("it came")
    atom.set_ready("again")

    with pytest.warns(ConditionWarning, match="x is settled as TRUE already; NEVER was ignored"):
        atom.set_never()

    assert atom.value is T
    assert atom.reason == "it came"
    assert atom.contradicted == 1


@pytest.mark.parametrize(
    ("settle", "value"),
    [(Atom.set_ready, T), (Atom.set_never, N), (Atom.set_cancelled, C)],
    ids=["ready", "never", "cancelled"],
)
def test_every_settlement_keeps_its_reason(settle: Any, value: Value) -> None:
    atom = Atom()

    settle(atom, "because")

    assert (atom.value, atom.reason, atom.settled) == (value, "because", True)


def test_a_level_moves_until_it_is_closed() -> None:
    level = Level("x")
    assert (level.value, level.ready) == (W, False)
    level.hold()
    assert (level.value, level.ready, level.settled) == (Value.HOLDS, True, False)
    level.release()
    level.hold()
    level.close()
    assert level.value is T
    with pytest.warns(ConditionWarning):
        level.release()

    other = Level(holds=True)
    other.release()
    other.close()
    assert other.value is N


def test_a_message_sets_the_latch_once() -> None:
    atom = IsCompleted("u")
    atom.see(Started())
    assert atom.value is W
    atom.see(Failed(kind="raised"))
    atom.see(Completed())

    assert atom.value is C


def test_a_fetch_is_completed_as_a_job_is() -> None:
    fetched = IsFetched("u")
    fetched.see(Completed())

    assert fetched.ready


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        (5, 5.0),
        (0.25, 0.25),
        ("90s", 90.0),
        ("10m", 600.0),
        ("10 min", 600.0),
        ("1h30m", 5400.0),
        ("1h 30m 5s", 5405.0),
        ("250ms", 0.25),
        ("2d", 172_800.0),
        ("1w", 604_800.0),
        ("1.5h", 5400.0),
        ("7", 7.0),
        (timedelta(minutes=2), 120.0),
        ("0s", 0.0),
    ],
)
def test_spans_of_time_are_read(span: Any, seconds: float) -> None:
    assert span_seconds(span, "span") == seconds


@pytest.mark.parametrize(
    "span", ["", "x", "10x", "m10", "10m5", "-5s", -1, float("nan"), float("inf"), None, True, "1e999", [1]]
)
def test_what_is_no_span_is_refused(span: Any) -> None:
    with pytest.raises(BadOption, match="delay"):
        span_seconds(span, "delay")


def test_instants_may_be_moments_or_texts() -> None:
    moment = datetime(2030, 1, 1, 12, tzinfo=UTC)

    assert at(moment).instant == at("2030-01-01 12:00+00:00").instant == at(moment.timestamp()).instant
    assert at(datetime(2030, 1, 1, 12)).instant == datetime(2030, 1, 1, 12).astimezone().timestamp()
    assert before(moment).instant == moment.timestamp()


def test_a_time_of_day_is_the_next_such_time() -> None:
    wanted = at("02:00").instant - datetime.now(UTC).timestamp()

    assert -1 < wanted <= 25 * 3600
    assert datetime.fromtimestamp(at("02:00").instant).strftime("%H:%M") == "02:00"


@pytest.mark.parametrize("moment", ["tomorrow", "25:00", None, [], True])
def test_what_is_no_instant_is_refused(moment: Any) -> None:
    with pytest.raises(BadOption, match="datetime"):
        at(moment)


def test_world_atoms_refuse_what_they_cannot_watch() -> None:
    for act in (
        lambda: exists(""),
        lambda: exists(3),
        lambda: changed(None),
        lambda: url_ok("nowhere"),
        lambda: free("gpu", -1),
    ):
        with pytest.raises(BadOption):
            act()
    assert exists(Path("/tmp/x")).target == "/tmp/x"


def test_time_alone_is_worth_what_it_is_at_registration() -> None:
    assert after("10m").value is W
    assert before("2030-01-01 00:00").value is Value.HOLDS
    assert (Level(holds=True)).within("5m").value is Value.HOLDS
    assert held(Level(holds=True), 5).value is W
