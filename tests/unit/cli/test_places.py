"""Which job a word means, and which run a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trun.adapters.keys import KeyPair, new_seed
from trun.adapters.known import Known, remember
from trun.cli.places import Place, Search, named_places
from trun.errors import ServiceUnavailable, UnknownName


class Answers:
    """A source that knows the jobs it was given."""

    def __init__(self, place: Place, ids: list[str]) -> None:
        self.place = place
        self.ids = ids
        self.asked: list[str] = []
        self.closed = False

    def ask(self, verb: str, /, **arguments: Any) -> Any:
        """Answer ``which``."""
        assert verb == "which"
        wanted = arguments["job"]
        self.asked.append(wanted)
        found = [each for each in self.ids if wanted in (each, each.partition("#")[0], f"uid-{each}")]
        return {"jobs": [{"id": each, "uid": f"uid-{each}"} for each in found], "near": [] if found else self.ids}

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


def place(run: str, *, live: bool = False, name: str = "local", since: float = 0.0) -> Place:
    """Return a place of this name."""
    return Place(folder=Path("/state/runs", run), run=run, name=name, address="ipc://x" if live else "", since=since)


def search(**jobs: list[str]) -> tuple[Search, dict[str, Answers]]:
    """Return a search over runs; those whose name begins with ``live`` live."""
    places = [place(run, live=run.startswith("live")) for run in jobs]
    sources = {each.run: Answers(each, jobs[each.run]) for each in places}
    return Search(places, opener=lambda each: sources[each.run]), sources


def test_a_living_job_wins_over_one_on_record() -> None:
    looking, sources = search(live_a=["fit#7"], old=["fit#7"])

    assert looking.job("fit#7").source.place.run == "live_a"
    assert sources["old"].asked == []


def test_the_newest_record_that_has_the_job_is_meant() -> None:
    looking, sources = search(live_a=["other#1"], newer=["other#1"], old=["fit#7"], oldest=["fit#7"])

    assert looking.job("fit#7").source.place.run == "old"
    assert sources["oldest"].asked == []


@pytest.mark.parametrize("word", ["fit#7", "fit", "uid-fit#7"])
def test_a_job_is_found_by_id_by_name_and_by_uid(word: str) -> None:
    looking, _ = search(live_a=["fit#7", "plot#8"])

    assert looking.job(word).id == "fit#7"


def test_a_word_that_means_several_living_jobs_lists_them() -> None:
    looking, _ = search(live_a=["fit#7"], live_b=["fit#7"])

    with pytest.raises(UnknownName, match="may be one of 2 jobs: live_a/fit#7, live_b/fit#7"):
        looking.job("fit#7")


@pytest.mark.parametrize("word", ["live_b/fit#7", "live_b/fit"])
def test_the_run_before_a_slash_chooses(word: str) -> None:
    looking, _ = search(live_a=["fit#7"], live_b=["fit#7"])

    assert looking.job(word).source.place.run == "live_b"


def test_a_slash_in_the_name_of_a_job_is_no_run() -> None:
    looking, _ = search(live_a=["a/b#3"])

    assert looking.job("a/b#3").id == "a/b#3"


def test_an_unknown_job_names_the_nearest() -> None:
    looking, _ = search(live_a=["reduce#1"], old=["fit#7"])

    with pytest.raises(UnknownName, match=r"no job .* in 1 live service and 1 ended run. Did you mean 'reduce#1'"):
        looking.job("reduec#1")


def test_a_service_that_is_stuck_does_not_stand_in_the_way_of_others() -> None:
    places = [place("live_a", live=True), place("live_b", live=True)]

    def opener(each: Place) -> Answers:
        if each.run == "live_a":
            raise ServiceUnavailable("live_a does not answer.")
        return Answers(each, ["fit#7"])

    looking = Search(places, opener=opener)

    assert looking.job("fit#7").source.place.run == "live_b"
    assert list(looking.silent) == ["live_a"]
    with pytest.raises(ServiceUnavailable, match="live_a"):
        looking.job("plot#8")


def test_what_was_opened_is_closed() -> None:
    looking, sources = search(live_a=["fit#7"])
    with looking:
        looking.job("fit#7")

    assert sources["live_a"].closed


PLACES = [
    place("first-251121-1", live=True),
    place("first-251120-2"),
    place("scan-251119-3", name="compufans"),
]


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("first-251120-2", ["first-251120-2"]),
        ("local", ["first-251121-1"]),
        ("compufans", ["scan-251119-3"]),
        ("first", ["first-251121-1", "first-251120-2"]),
    ],
)
def test_a_name_means_a_run_a_living_service_or_the_begin_of_a_run(name: str, runs: list[str]) -> None:
    assert [each.run for each in named_places(PLACES, name)] == runs


def test_an_unknown_run_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'compufans'"):
        named_places(PLACES, "compufan")


def test_services_that_are_written_down_are_near_names_too() -> None:
    remember(Known(name="facility", address="tcp://127.0.0.1:9", key=KeyPair(new_seed()).public))

    with pytest.raises(UnknownName, match="Did you mean 'facility'"):
        named_places(PLACES, "facilty")
