from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from trun.core.record import FINAL_STATES, JobState
from trun.core.states import MEANING, TRANSITIONS, Cause, diagram, next_state, page
from trun.errors import InvariantError

#: Those that a service knows; "unknown" is what a handle says of a service that it cannot hear.
REAL = set(JobState) - {JobState.UNKNOWN}
PAGE = Path(__file__).resolve().parents[3] / "docs" / "job_states.md"


def test_the_page_is_drawn_from_the_table() -> None:
    assert page() in PAGE.read_text(encoding="utf-8"), "run python -m trun.core.states and put its output there"


def test_every_cause_is_used_and_explained() -> None:
    assert set(MEANING) == set(get_args(Cause)) == {cause for _, cause in TRANSITIONS}


def test_every_state_can_be_reached_and_drawn() -> None:
    assert set(TRANSITIONS.values()) == REAL
    assert all(state.value in diagram() for state in REAL)


def test_only_a_new_run_leaves_a_final_state() -> None:
    assert {cause for state, cause in TRANSITIONS if state in FINAL_STATES} == {"rerun"}
    assert all(state.is_final for state in FINAL_STATES)


def test_every_state_has_a_way_to_an_end() -> None:
    reached = set(FINAL_STATES)
    while True:
        more = {state for (state, _), following in TRANSITIONS.items() if following in reached} - reached
        if not more:
            break
        reached |= more

    assert reached == REAL


def test_an_unlisted_transition_is_refused() -> None:
    with pytest.raises(InvariantError, match="completed cannot be changed by 'start'"):
        next_state(JobState.COMPLETED, "start")
