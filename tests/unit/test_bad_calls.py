"""What a wrong call at door 1 is told, before any service has been asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

import trun
from trun.adapters.keys import KeyPair, new_seed
from trun.errors import BadOption, ConditionTypeError, UnknownName
from trun.groups import Group
from trun.handles import Job
from trun.joboptions import make_filter
from trun.messages import Welcome
from trun.service import Service


@pytest.fixture
def job() -> Job:
    service = Service(name="s", address="ipc:///nowhere")
    service.welcome = Welcome(service_key="k", name="s", epoch=1)
    return Job(service, "u", "fit")


@pytest.mark.parametrize(
    ("compare", "hint"),
    [
        (lambda piece: piece == 2, r"fit\.improved\('x == 3'\), fit\.reaches\(0\.5\) or fit\.said\('name'\)"),
        (lambda piece: piece != 2, r"fit\.improved"),
        (lambda piece: piece == "good", r"fit\.improved"),
        (lambda piece: piece < 2, r"fit\.improved\('x < 3'\)"),
        (lambda piece: piece <= 2, r"fit\.improved"),
    ],
)
def test_comparing_what_is_not_known_yet_names_the_condition(
    job: Job, compare: Callable[[Any], object], hint: str
) -> None:
    for piece in (job.chi, job.output, job[1].chi):
        with pytest.raises(ConditionTypeError, match=hint) as caught:
            compare(piece)
        assert isinstance(caught.value, TypeError)


def test_pieces_are_equal_where_they_are_the_same(job: Job) -> None:
    assert job.chi == job.output.chi
    assert job.chi != job.model
    assert job.chi != job
    assert (job.chi == None) is False  # noqa: E711 - it must answer
    assert {job.chi: 1}[job.output.chi] == 1
    assert job[[1]] == job[[1]]


def test_a_part_with_an_underscore_is_reached_through_output(job: Job) -> None:
    with pytest.raises(AttributeError, match=r"use \.output\._chi"):
        _ = job._chi

    assert repr(job.output._chi) == "<fit.output._chi>"


@pytest.mark.parametrize("name", ["__array__", "_repr_html_", "_ipython_display_"])
def test_what_libraries_ask_of_anything_is_no_part_of_a_result(job: Job, name: str) -> None:
    assert not hasattr(job.output, name)


def test_a_group_offers_the_nearest_name() -> None:
    group = Group(Service(name="s", address="ipc:///nowhere"), "g", "fit", [])

    with pytest.raises(AttributeError, match=r"a group has no 'isfinish'. Did you mean 'isfinished'\?"):
        _ = group.isfinish  # type: ignore[attr-defined]


@trun.job
def fit(x: int) -> int:
    return x


def test_a_job_function_refuses_an_option_that_is_misspelt() -> None:
    with pytest.raises(UnknownName, match=r"fit\(\) takes no 'wehn'. Did you mean 'when'\?"):
        fit(3, wehn=None)


@pytest.mark.parametrize("option", [{"memo": True}, {"packages": "none"}, {"on": ("code",)}])
def test_options_of_the_memo_are_refused_as_long_as_there_is_none(option: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match=r"memo.*is not there yet"):
        trun.job(**option)(len)


def test_map_says_which_of_its_iterables_is_none() -> None:
    with pytest.raises(BadOption, match="iterable 2 is 3"):
        trun.map(fit, [1], 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("completed", "completed"),
        (trun.JobState.FAILED, "failed"),
        ("waiting, Running", "waiting,running"),
        (["completed", trun.JobState.FAILED], "completed,failed"),
        (None, None),
    ],
)
def test_jobs_are_filtered_by_states(state: Any, said: str | None) -> None:
    assert make_filter(state, None, None)["state"] == said


def test_jobs_are_filtered_by_time() -> None:
    moment = datetime.now() - timedelta(hours=1)
    ago = time.time() - 3600

    assert make_filter(None, None, 5)["since"] == 5
    assert make_filter(None, None, moment)["since"] == pytest.approx(moment.timestamp())
    for span in ("1h", timedelta(hours=1)):
        assert make_filter(None, None, span)["since"] == pytest.approx(ago, abs=600)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"state": "compleeted"}, UnknownName, "Did you mean 'completed'"),
        ({"since": "yesterday"}, BadOption, "no time span"),
        ({"since": [1]}, BadOption, "since must be a datetime"),
        ({"name": 3}, BadOption, "name must be a text"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make_filter(**{"state": None, "name": None, "since": None, **given})


@pytest.mark.parametrize(
    ("given", "text"), [({"state": 3}, "state must be"), ({"detach": "x"}, "detach"), ({"resources": 3}, "dictionary")]
)
def test_local_refuses_what_it_cannot_use(given: dict[str, Any], text: str) -> None:
    with pytest.raises(BadOption, match=text):
        trun.local(**given)


def test_fetch_url_names_the_schemes_that_there_are() -> None:
    pytest.importorskip("fsspec")

    with pytest.raises(BadOption, match=r"no scheme ftq://.* trun://, https://, http:// and .*Did you mean 'ftp'"):
        trun.fetch_url("ftq://host/x")


@pytest.mark.parametrize("address", ["tcp://here", "tcp://:7711", "tcp://here:0", "tcp://here:99999", "tcp://here:1/x"])
def test_what_is_no_address_of_a_service_is_refused_at_once(address: str) -> None:
    with pytest.raises(BadOption, match="65535"):
        trun.remote_service(address, expect=KeyPair(new_seed()).public)
