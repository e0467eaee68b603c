from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.adapters.seals import JOB, LIFE, BrokenSeal, seal, seal_of_facts, unseal

PLACES = st.one_of(
    st.tuples(st.sampled_from([JOB, LIFE]), st.integers(1, 2**31)),
    st.tuples(st.integers(-(2**40), 2**40), st.integers(1, 2**40), st.integers(1, 2**20), st.floats(0, 1e10)),
    st.tuples(st.sampled_from(["group", "definition"]), st.text()),
)


@given(st.binary(), PLACES)
def test_what_was_sealed_comes_back(data: bytes, place: tuple[object, ...]) -> None:
    assert unseal(seal(data, *place), *place) == data


@given(st.binary(), PLACES, st.data())
def test_one_flipped_bit_breaks_the_seal(data: bytes, place: tuple[object, ...], draw: st.DataObject) -> None:
    sealed = bytearray(seal(data, *place))
    sealed[draw.draw(st.integers(0, len(sealed) - 1))] ^= 1 << draw.draw(st.integers(0, 7))

    with pytest.raises(BrokenSeal):
        unseal(bytes(sealed), *place)


@given(st.binary(), PLACES, PLACES)
def test_a_row_in_another_place_is_broken(data: bytes, place: tuple[object, ...], other: tuple[object, ...]) -> None:
    if place != other:
        with pytest.raises(BrokenSeal):
            unseal(seal(data, *place), *other)


def test_a_place_that_is_no_number_any_more_is_broken() -> None:
    with pytest.raises(BrokenSeal):
        unseal(seal(b"x", 1, 2, 3, 4.0), 1, 2, "three", 4.0)


def test_facts_have_a_seal_that_does_not_count_itself() -> None:
    facts = {"epoch": "1", "service_key": "k"}

    assert seal_of_facts(facts) == seal_of_facts({**facts, "seal": "x"}) != seal_of_facts({**facts, "epoch": "2"})
