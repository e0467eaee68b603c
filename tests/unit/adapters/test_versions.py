"""Which versions are among those that somebody wants."""

from __future__ import annotations

import json

import numpy
import pytest

import trun
from trun.adapters import versions
from trun.adapters.ondemand import words
from trun.adapters.versions import applies, distributions_of, meets, needs_of, requirement, same_name
from trun.messages import Need


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("1.2", ""),
        ("1.2", "==1.2.0"),
        ("1.2.3", ">=1.2,<2"),
        ("1.10", ">1.9"),
        ("2.0", ">2.0rc1"),
        ("2.0.post1", ">2.0"),
        ("2.0", ">=2.0.dev3"),
        ("1.4.5", "~=1.4.2"),
        ("1.9", "~=1.4"),
        ("1.4.5", "==1.4.*"),
        ("1.5", "!=1.4.*"),
        ("1.0+local", "==1.0"),
        ("1.0+local", "==1.0+local"),
        ("1!0.5", ">9"),
        ("odd", "==odd"),
        ("1.0", "a sign that nobody knows"),
    ],
)
def test_a_version_that_is_wanted_is_met(version: str, wanted: str) -> None:
    assert meets(version, wanted)


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("1.2", "==1.2.1"),
        ("2.0", ">=1.2,<2"),
        ("1.9", ">1.10"),
        ("2.0rc1", ">=2.0"),
        ("2.0a2", ">2.0b1"),
        ("2.0.dev1", ">=2.0a1"),
        ("1.5.0", "~=1.4.2"),
        ("1.5", "==1.4.*"),
        ("1.0", "==1.0+local"),
        ("odd", "==1.0"),
        ("1.0", "===1.0.0"),
    ],
)
def test_a_version_that_is_not_wanted_is_not_met(version: str, wanted: str) -> None:
    assert not meets(version, wanted)


def test_a_requirement_is_read_with_its_circumstances() -> None:
    assert requirement("numpy (>=1.2, <3)") == Need(distribution="numpy", wanted=">=1.2,<3")
    assert requirement("scipy[fast]>=1") == Need(distribution="scipy", wanted=">=1")
    assert requirement("attrs") == Need(distribution="attrs")
    early = Need(distribution="tomli", marker="python_version < '3.11'")
    assert requirement("tomli; python_version < '3.11'") == early
    assert requirement("a; " + "x" * 1000) is None
    assert requirement("mine @ https://host/mine.whl") is None


@pytest.mark.parametrize(
    ("marker", "given"),
    [
        ("", True),
        ("python_version >= '3.8'", True),
        ("python_version < '3.8'", False),
        ("sys_platform == 'no such' or python_version >= '3.8'", True),
        ("extra == 'plots'", False),
        ("python_version >= '3.8' and extra == 'plots'", False),
        ("platform_machine != 'vax' and (os_name == 'posix' or os_name == 'nt')", True),
    ],
)
def test_circumstances_are_those_of_this_python(marker: str, given: bool) -> None:
    assert applies(marker) is given


@pytest.mark.parametrize("marker", ["python_version", "__import__('os')", "nobody == '1'", "(" * 400, "a" * 501])
def test_what_is_no_marker_is_refused(marker: str) -> None:
    with pytest.raises(trun.BadOption):
        applies(marker)


def test_without_a_reader_of_markers_what_has_one_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_markers", lambda: None)

    assert not applies("python_version >= '3.8'")
    assert applies("")


def test_names_of_distributions_are_equal_however_they_are_written() -> None:
    assert same_name("My_Model.Fit") == same_name("my-model-fit")


def test_a_function_needs_the_distribution_that_it_comes_from() -> None:
    (need,) = needs_of(numpy.linalg.norm)

    assert (need.distribution, need.wanted) == ("numpy", f"=={numpy.__version__}")
    assert need.where.endswith(".dist-info")


def test_functions_of_python_and_of_no_distribution_need_nothing() -> None:
    assert needs_of(json.dumps) == ()
    assert needs_of(test_names_of_distributions_are_equal_however_they_are_written) == ()
    assert list(distributions_of("no_such_module_at_all")) == []


@pytest.mark.parametrize(
    ("distribution", "wanted"),
    [("--index-url", ""), ("a b", ""), ("a@https://host/x", ""), ("a", "==1 --pre"), ("a", "@https://host"), ("", "")],
)
def test_what_is_no_requirement_never_becomes_a_word_of_a_command(distribution: str, wanted: str) -> None:
    with pytest.raises(trun.BadOption):
        words([Need(distribution=distribution, wanted=wanted)])


def test_requirements_become_words_in_order() -> None:
    needs = [Need(distribution="numpy", wanted=">=1.2,<3"), Need(distribution="attrs"), Need(distribution="numpy")]

    assert words(needs) == ("attrs", "numpy", "numpy>=1.2,<3")
