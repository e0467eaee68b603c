"""Conditions as text: what is written is read back, and what cannot be read is one error with its position."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from trun.conditions import (
    Atom,
    Condition,
    IsCompleted,
    IsFailed,
    IsFetched,
    IsMessage,
    IsProgress,
    IsReached,
    IsResult,
    JobAtom,
    Level,
    after,
    all_of,
    any_of,
    at,
    at_least,
    before,
    changed,
    exists,
    free,
    held,
    never,
    parse,
    settled,
    since,
    url_ok,
)
from trun.errors import ConditionSyntaxError, ConditionWarning, UnknownName


class FakeJob:
    """A job as far as conditions know it: a uid, a name, conditions of its own."""

    def __init__(self, name: str, uid: str = "") -> None:
        self.name = name
        self.uid = uid or f"uid-{name}"
        self.iscompleted = IsCompleted(self)


a, b, plot = FakeJob("a"), FakeJob("b"), FakeJob("plot")
x, gate = Atom("x"), Level("gate")
names: dict[str, Any] = {
    "a": a, "b": b, "x": x, "gate": gate, "my job": FakeJob("my job"), "fit#7": FakeJob("fit#7"), "and": FakeJob("and"),
    "sims": [a, b], "run[0]": a, "run[10]": b, "run[2]": plot, "family": {"one": a, "two": b}, "uid only": "u1",
}  # fmt: skip


POOL = strategies.pool()
ANY = strategies.timed_conditions(POOL)
KNOWN = {subject: subject for subject in strategies.SUBJECTS} | {
    str(leaf.name): leaf for leaf in POOL.bare + POOL.levels if isinstance(leaf, Atom | Level)
}


def read(text: str) -> Condition:
    """Parse, whatever is doubtful about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditionWarning)
        return parse(text, names)


CONDITIONS = [
    a.iscompleted,
    IsFailed(a) | IsFetched(b),
    IsMessage(a, 'it\'s "here"\n'),
    IsResult(a, 'chisq < 2 and status == "good"'),
    IsProgress(a, 0.1),
    IsReached(a, "60%"),
    IsReached(a, 3),
    IsCompleted(names["my job"]) & IsCompleted(names["fit#7"]) & IsCompleted(names["and"]),
    x & gate,
    ~x,
    ~~(x | gate),
    never(x & gate),
    settled(~x),
    at_least(2, x, gate, a.iscompleted),
    at_least(0, x),
    at_least(1),
    all_of(),
    any_of(),
    all_of(x),
    x | any_of(),
    held(x, "90s"),
    held(x | gate, 0.1234),
    since(x & gate, a.iscompleted),
    after("10m"),
    after(0),
    after(1e-7),
    (x & gate).within("1h30m"),
    at(1_500_000_000),
    at(1_500_000_000.1),
    at(1e300),
    before("2030-01-01 00:00+00:00"),
    exists('a "quoted"\\path'),
    exists("p", poll="250ms"),
    changed("p", poll=0.3),
    url_ok("https://host/x?y=1#z"),
    free("gpu", 2),
    free("gpu", 0.5),
    Atom(),
    Level(),
    Atom("a") & a.iscompleted,
    IsCompleted("no name at all"),
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=str)
def test_what_is_written_is_read_back(condition: Condition) -> None:
    known = {**names, "no name at all": "no name at all"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditionWarning)
        assert parse(str(condition), known) == condition


@given(ANY)
def test_every_condition_is_read_back_from_its_text(condition: Condition) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConditionWarning)
        back = parse(str(condition), KNOWN)

    assert back == condition
    assert str(back) == str(condition)


def test_a_text_looks_like_the_python_that_makes_it() -> None:
    condition = (a.iscompleted | never(IsFailed(b))) & at_least(2, x, gate, IsResult(a, "chisq < 2")) & held(x, 60)

    assert str(condition) == (
        '(a.iscompleted | never(b.isfailed)) & at_least(2, x, gate, a.improved("chisq < 2")) & held(x, "1m")'
    )


@pytest.mark.parametrize(
    "text",
    [
        "a & b | x",
        "(a & b) | x",
        "a and b or x",
        "a && b || x",
        "a.completed & b.iscompleted | x",
        "((a) & (b)) | ((x))",
        "any(all(a, b), x)",
        "any_of(all_of(a, b), x,)",
        "atleast(1, at_least(2, a, b), x)",
        " a\n&\tb | x ",
    ],
)
def test_every_spelling_means_the_same(text: str) -> None:
    assert parse(text, names) == (a.iscompleted & b.iscompleted) | x


@pytest.mark.parametrize("text", ["~gate & x", "!gate & x", "-gate & x", "not gate & x", "not not not gate and x"])
def test_not_binds_tighter_than_and(text: str) -> None:
    assert parse(text, names) == (~gate) & x


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("a.progress >= 0.5", IsProgress(a, 0.5)),
        ("a.progress >= 50%", IsProgress(a, 0.5)),
        ("a.reaches(0.5)", IsProgress(a, 0.5)),
        ("a.reaches(5)", IsReached(a, 5)),
        ("a.result('chisq < 2')", IsResult(a, "chisq < 2")),
        ('a.improved("chisq < 2")', IsResult(a, "chisq < 2")),
        ('a.message("ready")', IsMessage(a, "ready")),
        ('a.said("ready")', IsMessage(a, "ready")),
        ('"a".iscompleted', a.iscompleted),
        ("'my job'", IsCompleted(names["my job"])),
        ("fit#7.ended", parse("fit#7.isended", names)),
        ("sims[*]", a.iscompleted & b.iscompleted),
        ("sims[*].isfailed", IsFailed(a) & IsFailed(b)),
        ("sims[1].isfailed", IsFailed(b)),
        ("run[10]", b.iscompleted),
        ("any(run[*])", a.iscompleted | b.iscompleted | plot.iscompleted),
        ("at_least(2, run[*].iscompleted)", at_least(2, a.iscompleted, b.iscompleted, plot.iscompleted)),
        ("at_least('60%', run[*])", at_least(2, a.iscompleted, b.iscompleted, plot.iscompleted)),
        ("family[*] & x", a.iscompleted & b.iscompleted & x),
        ("never(sims[*])", never(a.iscompleted & b.iscompleted)),
        ("uid-plot", None),
        ('"uid-my job".isfailed', IsFailed(names["my job"])),
        ('"uid only".isfailed', IsFailed("u1")),
        ("x.within('10m')", x.within("10m")),
        ("~gate.within(600) & (a | x).within('1m')", ~(gate.within(600)) & (a.iscompleted | x).within(60)),
        ("exists('p', '1s')", exists("p", poll="1s")),
        ("free('gpu')", free("gpu", 1)),
    ],
)
def test_the_grammar_reads(text: str, condition: Condition | None) -> None:
    if condition is None:
        with pytest.raises(ConditionSyntaxError):
            parse(text, names)
        return
    assert read(text) == condition


def test_names_may_be_found_by_a_function() -> None:
    asked: list[str] = []

    def find(name: str) -> Any:
        asked.append(name)
        if name == "none":
            return None
        return {"a": a}[name]

    assert parse("a & a.isfailed", find) == a.iscompleted & IsFailed(a)
    assert asked == ["a", "a"]
    for unknown in ("b", "none"):
        with pytest.raises(ConditionSyntaxError):
            parse(unknown, find)


def test_a_job_is_asked_for_its_own_conditions() -> None:
    class Live(FakeJob):
        def improved(self, expression: str) -> JobAtom:
            return self.best

        best = IsResult("live", "x < 1")

    live = Live("live")

    assert parse("live", {"live": live}) is live.iscompleted
    assert parse("live.result('x < 2')", {"live": live}) is live.best


def test_a_step_without_uid_gives_its_own_condition() -> None:
    step = SimpleNamespace(iscompleted=x)

    assert parse("step", {"step": step}) is x


@pytest.mark.parametrize(
    ("text", "position", "what"),
    [
        ("", 0, "empty"),
        ("a &", 3, "a condition was expected, not the end"),
        ("& a", 0, "a condition was expected"),
        ("a && & b", 5, "a condition was expected"),
        ("a | | b", 4, "a condition was expected"),
        ("not", 3, "a condition was expected"),
        ("(a", 0, "not closed"),
        ("a & (b | (x)", 4, "not closed"),
        ("all(a", 0, "not closed"),
        ("a)", 1, "operator"),
        ("()", 1, "a condition was expected"),
        ("(a,b)", 2, "operator"),
        ("a b", 2, "operator"),
        ("a == b", 2, "improved"),
        ("a >= 3", 2, "improved"),
        ("a.compleeted", 2, "Did you mean 'iscompleted'"),
        ("a.", 2, "an outcome"),
        ("a.progress > 0.5", 11, "'>='"),
        ("a.progress >= 5", 2, "fraction"),
        ("a.result('x <')", 2, "in the expression"),
        ("a.result(x)", 9, "in quotes"),
        ("a.said()", 2, "one argument"),
        ("x.iscompleted", 2, "condition already"),
        ("sims", 0, "sims[*]"),
        ("a[*]", 0, "asks for a list"),
        ("a[", 2, "*"),
        ("foo(a)", 0, "no foo(...)"),
        ("nevr(a)", 0, "Did you mean 'never'"),
        ("first(a, b)", 0, "trun.first"),
        ("held(a)", 6, "time span"),
        ("held(a, '10x')", 0, "no time span"),
        ("held(a, '5s', b)", 12, "')'"),
        ("since(a)", 0, "2 conditions"),
        ("never(a, b)", 0, "1 condition"),
        ("at_least(a, b)", 9, "number"),
        ("at_least(-1, a)", 0, "at least 0"),
        ("at_least('150%', a)", 0, "between"),
        ("after(a)", 6, "in quotes"),
        ("after('5m'", 10, "')'"),
        ("after()", 0, "takes 1"),
        ("exists('p', pol='1s')", 0, "Did you mean 'poll'"),
        ("at('tomorrow')", 0, "datetime"),
        ('"abc', 0, "does not end"),
        ("a $ b", 2, "'$'"),
        ("a & b\x00", 5, "no place"),
    ],
)
def test_bad_text_is_one_clear_error_with_its_position(text: str, position: int, what: str) -> None:
    with pytest.raises(ConditionSyntaxError) as caught:
        read(text)

    assert what in str(caught.value)
    assert caught.value.position == position
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("text", "position"), [("plt", 0), ("a & (plt)", 5), ("x | plt.isfailed", 4), ("plt[*]", 0)])
def test_an_unknown_name_offers_the_nearest(text: str, position: int) -> None:
    with pytest.raises(ConditionSyntaxError) as caught:
        parse(text, {**names, "plot": plot})

    assert caught.value.position == position
    assert isinstance(caught.value, UnknownName)
    if "[" not in text:
        assert caught.value.suggestions[0] == "plot"
        assert "Did you mean 'plot'?" in str(caught.value)


def test_not_over_an_outcome_is_doubtful_and_never_is_offered() -> None:
    with pytest.warns(ConditionWarning, match=r"never\(b\.isfailed\)"):
        parse("a & !b.failed", names)


def test_not_over_a_level_is_not_doubtful() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parse("~gate & never(b.failed) & ~exists('lock') & ~after('10m')", names)


def test_two_jobs_of_one_name_are_told_apart_by_uid() -> None:
    one, other = FakeJob("fit", "u1"), FakeJob("fit", "u2")
    condition = IsCompleted(one) & IsCompleted(other)

    assert str(condition) == "u1.iscompleted & u2.iscompleted"
    assert parse(str(condition), {"fit": one, "other": other}) == condition


def test_a_hundred_thousand_wide_and_a_fifty_thousand_deep_text_are_read() -> None:
    wide = all_of(*(IsCompleted(f"n{number}") for number in range(100_000)))
    deep: Condition = x
    for number in range(50_000):
        deep = (deep & IsCompleted(f"n{number}")) if number % 2 else (deep | IsCompleted(f"n{number}"))
    known = {"x": x, **{f"n{number}": f"n{number}" for number in range(100_000)}}

    assert parse(str(wide), known) == wide
    assert parse(str(deep), known) == deep
    assert parse("~" * 50_000 + "gate", names) == gate
    assert parse("(" * 50_000 + "x" + ")" * 50_000, names) is x


def test_an_expression_shared_many_times_over_is_cut_and_not_written_for_ever() -> None:
    node: Condition = x
    for _ in range(64):
        node = (node | gate) & (node | x)

    assert str(node).endswith(" ...")


@given(st.text(alphabet="ab x()&|~!-.,'\"\\[]*0159%=<>#$\nandorthelsc", max_size=40))
def test_any_text_is_a_condition_or_one_clear_error(text: str) -> None:
    position = 0
    try:
        found = read(text)
    except ConditionSyntaxError as error:
        position, found = error.position, x

    assert 0 <= position <= len(text)
    assert read(str(found)) == found
