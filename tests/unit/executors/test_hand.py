"""Orders in a worker's hands: given, begun, taken back; and frames too big for a datagram. The worker is this test."""

from __future__ import annotations

import mmap
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trun.adapters import pickles
from trun.executors import endings, processtree
from trun.executors.hand import Hand, Sent
from trun.executors.openings import Openings, is_plain
from trun.executors.protocol import Envelope, Leaving, encode, file_stem, log_name, order_reader, tail_of
from trun.messages import Call, JobSpec
from trun.ports import Order


def order(number: int, size: int = 10, **spec: Any) -> Order:
    payload, _ = pickles.dump_call(("x" * size,), {})
    digest, data = pickles.dump_function(len)
    made = JobSpec(uid=f"u{number}", name="fit", call=Call(digest, payload), **spec)
    return Order(
        uid=made.uid, epoch=1, run=1, attempt=1, id=f"fit#{number}", spec=made, function=data, context=b"", inputs={}
    )


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Hand]:
    made = Hand(1, "w-1", tmp_path)
    yield made
    made.close()


@pytest.fixture
def worker(hand: Hand, tmp_path: Path) -> Any:
    """Return what receives the next order as the worker would."""
    reader = order_reader(tmp_path / "spill")
    return lambda: reader.receive(hand.theirs, socket.MSG_DONTWAIT)


def give(hand: Hand, *orders: Order) -> list[Sent]:
    found = [Sent(one) for one in orders]
    for sent in found:
        hand.give(sent)
    return found


def test_what_the_worker_has_received_cannot_be_taken_back(hand: Hand, worker: Any) -> None:
    first, second, third = give(hand, order(1), order(2), order(3))

    assert worker().uid == "u1"
    assert hand.take_back() == [second, third]
    assert list(hand.queue) == [first]
    with pytest.raises(BlockingIOError):
        worker()


def test_what_was_taken_back_can_be_given_again(hand: Hand, worker: Any) -> None:
    give(hand, order(1), order(2))
    for sent in hand.take_back():
        hand.give(sent)

    assert [worker().uid, worker().uid] == ["u1", "u2"]


def test_a_function_goes_along_until_the_worker_has_had_it(hand: Hand, worker: Any) -> None:
    give(hand, order(1))
    hand.take_back()
    give(hand, order(2), order(3))

    second, third = worker(), worker()

    assert second.function_data is not None
    assert third.function_data is None


def test_a_worker_forgets_when_it_has_been_given_many_functions(hand: Hand, worker: Any) -> None:
    hand.known = {str(i) for i in range(1000)}

    give(hand, order(1))

    assert worker().forget
    assert len(hand.known) == 2


def test_a_big_order_goes_by_a_file_that_does_not_stay(hand: Hand, worker: Any, tmp_path: Path) -> None:
    give(hand, order(1, size=500_000))

    envelope = worker()

    assert isinstance(envelope, Envelope)
    assert len(envelope.arguments.data or b"") > 500_000
    assert list((tmp_path / "spill").iterdir()) == []


def test_a_big_order_that_is_taken_back_leaves_no_file(hand: Hand, tmp_path: Path) -> None:
    give(hand, order(1, size=500_000))

    hand.take_back()

    assert list((tmp_path / "spill").iterdir()) == []


def test_what_finds_the_socket_full_is_sent_later_in_order(hand: Hand, worker: Any) -> None:
    orders = [order(i, size=40_000) for i in range(20)]
    give(hand, *orders)
    assert hand.unsent

    received = []
    for _ in orders:
        received.append(worker().uid)
        hand.flush()

    assert received == [one.uid for one in orders]


def test_what_was_never_sent_can_be_taken_back_too(hand: Hand, worker: Any) -> None:
    sent = give(hand, *[order(i, size=40_000) for i in range(20)])
    worker()

    assert hand.take_back() == sent[1:]


def test_what_is_given_to_a_worker_that_was_told_to_go_can_be_taken_back(hand: Hand) -> None:
    hand.go()
    sent = give(hand, order(1), order(2))

    assert not hand.takes_orders
    assert hand.take_back() == sent


def test_received_is_not_begun(hand: Hand, worker: Any, tmp_path: Path) -> None:
    first, second = give(hand, order(1), order(2))
    marking = order_reader(tmp_path / "spill", mmap.mmap(hand.mark_fd, mmap.PAGESIZE))

    worker()  # received by a process that dies before it has noted it
    assert not hand.has_begun(first)

    marking.receive(hand.theirs, socket.MSG_DONTWAIT)
    assert hand.has_begun(second)
    assert not hand.has_begun(first)


def test_a_process_that_is_not_known_yet_cannot_be_killed_here(hand: Hand) -> None:
    assert not hand.kill()


def test_reports_are_read_whole_and_the_end_is_told_from_silence(hand: Hand) -> None:
    assert hand.receive() is None
    hand.theirs.send(encode(Leaving(reason="why")))

    assert hand.receive() == Leaving(reason="why")
    assert hand.receive() is None


def test_only_plain_orders_wait_behind_others() -> None:
    assert is_plain(order(1))
    for options in ({"timeout": 1.0}, {"memory": 1}, {"resources": {"gpu": 1.0}}, {"isolation": "fresh"}):
        assert not is_plain(order(1, **options))


def test_orders_go_behind_the_shortest_queue(tmp_path: Path) -> None:
    hands = [Hand(i, f"w-{i}", tmp_path) for i in range(3)]
    for count, hand in zip((3, 1, 2), hands, strict=True):
        hand.ready = True
        give(hand, *[order(i) for i in range(count)])
    free = Openings(hands, 3, 4)

    found = [free.shortest() for _ in range(7)]

    assert [one.number for one in found if one is not None] == [1, 1, 2, 0, 1, 2]
    assert found[-1] is None
    for hand in hands:
        hand.close()


# -- names, texts, trees ----------------------------------------------------------------------------------------------


def test_file_names_are_made_of_harmless_uids_only() -> None:
    assert log_name("ab-1_x", 2, 3) == "ab-1_x.2.3.log"
    for uid in ("../x", "", "a/b", "x" * 200, "é"):
        assert len(file_stem(uid)) == 32


def test_the_tail_is_the_last_thirty_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{i}\n" for i in range(100)))

    assert tail_of(tmp_path / "log").splitlines() == [str(i) for i in range(70, 100)]
    assert tail_of(tmp_path / "none") == ""


def test_a_death_is_told_in_words() -> None:
    plain = order(7)
    by_exit = endings.died(plain, 3 << 8, 1.0, 0, "").error
    by_kernel = endings.died(plain, 9, 1.0, 1_500_000_000, "tail").error
    odd = endings.died(plain, 40, 1.0, 0, "").error

    assert by_exit is not None
    assert by_kernel is not None
    assert odd is not None
    assert "fit#7 ended itself with exit code 3" in by_exit.message
    assert "SIGKILL" in by_kernel.message
    assert "its peak was 1.50 GB" in by_kernel.message
    assert (by_kernel.signal, by_kernel.tail) == (9, "tail")
    assert "40" in odd.message


def test_descendants_are_found_at_any_depth() -> None:
    known = {1: 0, 2: 1, 3: 2, 4: 2, 5: 4, 6: 1}

    assert processtree.descendants([2], known) == {3, 4, 5}
    assert processtree.descendants([6], known) == set()


def test_the_memory_of_a_process_is_known_and_that_of_a_dead_one_is_nothing() -> None:
    import os

    assert processtree.rss(os.getpid()) > 1 << 20
    assert processtree.pss(os.getpid()) > 1 << 20
    assert processtree.rss(1 << 30) == 0
    assert processtree.parents()[os.getpid()] == os.getppid()
