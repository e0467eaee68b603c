"""The vocabulary of tokens: one way to write a resource, and what covers what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trun.core.scopes import (
    ALL,
    OPERATIONS,
    allows,
    covers,
    for_export,
    for_file,
    for_job,
    for_stream,
    is_resource,
    narrows,
    operations,
    resources,
)
from trun.errors import BadOption

characters = st.characters(blacklist_categories=("Cs",), blacklist_characters="\0/")
names = st.text(characters, min_size=1, max_size=20).filter(lambda text: text not in (".", ".."))
uids = st.text("0123456789abcdef", min_size=1, max_size=8)
scopes = st.one_of(
    st.just(ALL),
    uids.map(for_job),
    names.map(for_stream),
    st.builds(for_file, uids, names),
    st.lists(names, min_size=1, max_size=3).map(lambda parts: for_export("/".join(parts))),
)


@given(scopes)
def test_whatever_is_named_with_the_helpers_is_a_resource(resource: str) -> None:
    assert is_resource(resource)
    assert covers(ALL, resource)
    assert covers(resource, resource)


@given(scopes, scopes, scopes)
def test_to_cover_is_transitive(first: str, second: str, third: str) -> None:
    if covers(first, second) and covers(second, third):
        assert covers(first, third)


def test_a_job_covers_its_stream_and_its_files() -> None:
    assert covers("job:4f", "stream:4f")
    assert covers("job:4f", "file:4f/sub/fit.dat")
    assert not covers("job:4f", "job:4f0")
    assert not covers("job:4f", "stream:4f0")
    assert not covers("job:4f", "file:4f0/fit.dat")
    assert not covers("stream:4f", "job:4f")


def test_a_folder_covers_what_lies_below_it_and_no_neighbour() -> None:
    assert covers("export:run7", "export:run7/raw/a.h5")
    assert not covers("export:run7", "export:run71/a.h5")
    assert not covers("export:run7/raw", "export:run7")


def test_nothing_but_everything_covers_everything() -> None:
    assert not covers("job:4f", ALL)
    assert not allows([], "job:4f")
    assert narrows([ALL], [ALL, "job:4f"])
    assert not narrows(["job:4f", "job:5f"], ["job:4f", "job:6f"])


@pytest.mark.parametrize(
    "text",
    [
        "", "job", "job:", "job:..", "job:a/b", "job:a b", "job:a\n", "stream:", "stream:a/b", "stream:..",
        "file:4f", "file:4f/", "file:/a", "file:4f/../a", "file:4f//a", "file:../a", "export:", "export:/etc/passwd",
        "export:..", "export:a/../b", "export:./a", "export:a/", "export:%2e%2e/a", "export:a%2Fb", "export:a%2fb",
        "export:%41", "export:%zz", "export:a\\b", "export:ä", "export:%00", "Job:4f", "path:x", "**",
        "* ", "job:*", "export:" + "a" * 1001,
    ],
)  # fmt: skip
def test_what_is_not_written_in_the_one_way_is_no_resource(text: str) -> None:
    assert not is_resource(text)


@pytest.mark.parametrize("path", ["..", "../a", "/etc/passwd", "a//b", "a/../../b", ".", "", "a/\0"])
def test_a_path_that_leaves_its_folder_cannot_be_named(path: str) -> None:
    with pytest.raises(BadOption, match="cannot be named"):
        for_export(path)
    with pytest.raises(BadOption, match="cannot be named"):
        for_file("4f", path)


def test_a_name_that_is_no_text_can_be_named_too() -> None:
    assert for_file("4f", "caf\udce9") == "file:4f/caf%E9"
    assert is_resource("file:4f/caf%E9")
    with pytest.raises(BadOption):
        for_file("4f", "\ud800")


def test_operations_have_one_order_and_resources_are_sorted_and_each_occurs_once() -> None:
    assert operations(["submit", "read", "read"]) == ("read", "submit")
    assert operations("fetch") == ("fetch",)
    assert operations(OPERATIONS) == OPERATIONS
    assert resources(["job:b", "job:a", "job:b"]) == ("job:a", "job:b")
    assert resources("*") == ("*",)


def test_an_unknown_operation_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadOption, match=r"'reed' is no operation.*Did you mean 'read'"):
        operations(["reed"])


@pytest.mark.parametrize("given_names", [[], [f"job:{number}" for number in range(33)], ["job:.."], [3]])
def test_bad_resources_are_refused(given_names: list[str]) -> None:
    with pytest.raises(BadOption):
        resources(given_names)
    if given_names == []:
        with pytest.raises(BadOption):
            operations([])
