"""Who listens to what, and what comes next: rules one by one, then a machine that does everything at random."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from samples import entry
from trun.adapters.memory import MemoryJournal
from trun.engine import streams
from trun.engine.streams import Subscriptions
from trun.messages import AnyAnswer, Entries, Entry, Gap
from trun.ports import Batch

ANN, BOB = b"ann", b"bob"


class CountingJournal(MemoryJournal):
    """Counts how often it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def entries(self, stream: str, since: int = 1, limit: int = 1000) -> list[Entry]:
        self.reads += 1
        return super().entries(stream, since, limit)


class Service:
    """A journal with its listeners: commits, then publishes, as the engine does."""

    def __init__(self) -> None:
        self.journal = CountingJournal()
        self.streams = Subscriptions(self.journal)
        self.seqs: dict[str, int] = {}

    def happen(self, *names: str) -> list[Entry]:
        """Write an entry to each of these streams, without telling anybody."""
        made = []
        for name in names:
            self.seqs[name] = self.seqs.get(name, 0) + 1
            made.append(entry(name, self.seqs[name]))
        self.journal.commit(Batch(entries=[(0, found) for found in made]))
        return made

    def step(self, *names: str) -> dict[bytes, list[AnyAnswer]]:
        """Write and publish."""
        return {peer: list(batch) for peer, batch in self.streams.publish(self.happen(*names))}


def places(answers: Iterable[AnyAnswer]) -> list[tuple[str, int]]:
    """Return (stream, seq) of each entry."""
    return [(found.stream, found.seq) for answer in answers if isinstance(answer, Entries) for found in answer.entries]


@pytest.fixture
def service() -> Service:
    return Service()


def test_a_listener_gets_what_happens_and_nothing_of_other_streams(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)

    sent = service.step("a", "b", "a")

    assert places(sent[ANN]) == [("a", 1), ("a", 2)]
    assert list(sent) == [ANN]


def test_a_stream_that_begins_while_one_listens_is_never_read_from_the_journal(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)

    service.step("a")
    service.step("a")

    assert service.journal.reads == 0


def test_what_happened_before_comes_first_and_then_what_happens(service: Service) -> None:
    for _ in range(3):
        service.step("a")
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)

    sent = service.step("a")
    later = service.step("a")

    assert places(sent[ANN]) == [("a", 1), ("a", 2), ("a", 3), ("a", 4)]
    assert places(later[ANN]) == [("a", 5)]


def test_one_may_listen_from_the_middle_on(service: Service) -> None:
    for _ in range(5):
        service.step("a")
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 4)

    assert places(service.step()[ANN]) == [("a", 4), ("a", 5)]


def test_one_may_listen_from_a_number_that_is_still_to_come(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 3)

    assert service.step("a", "a") == {}
    assert places(service.step("a")[ANN]) == [("a", 3)]


def test_nothing_is_sent_by_listen_itself_so_that_no_order_can_be_broken(service: Service) -> None:
    service.step("a")
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)

    assert service.streams.pending
    assert places(service.step()[ANN]) == [("a", 1)]
    assert not service.streams.pending


def test_without_credit_nothing_is_sent_and_nothing_is_kept(service: Service) -> None:
    service.streams.listen(ANN, "a", 1)

    for _ in range(1000):
        assert service.step("a") == {}

    assert service.journal.reads == 0
    assert not service.streams.pending


def test_credit_is_spent_one_for_each_entry_and_then_one_goes_on_from_the_last(service: Service) -> None:
    service.streams.credit(ANN, 2)
    service.streams.listen(ANN, "a", 1)

    assert places(service.step("a", "a", "a", "a")[ANN]) == [("a", 1), ("a", 2)]
    assert service.step("a") == {}
    service.streams.credit(ANN, 1)
    assert places(service.step()[ANN]) == [("a", 3)]
    service.streams.credit(ANN, 10)
    assert places(service.step("a")[ANN]) == [("a", 4), ("a", 5), ("a", 6)]
    assert places(service.step("a")[ANN]) == [("a", 7)]


def test_a_slow_listener_does_not_hold_up_a_quick_one(service: Service) -> None:
    service.streams.credit(ANN, 1)
    service.streams.credit(BOB, 100)
    for peer in (ANN, BOB):
        service.streams.listen(peer, "a", 1)

    sent = service.step("a", "a", "a")

    assert places(sent[ANN]) == [("a", 1)]
    assert places(sent[BOB]) == [("a", 1), ("a", 2), ("a", 3)]


def test_two_listeners_of_one_stream_may_come_and_go(service: Service) -> None:
    for peer in (ANN, BOB):
        service.streams.credit(peer, 100)
        service.streams.listen(peer, "a", 1)

    service.streams.unlisten(ANN, "a")
    first = service.step("a")
    service.streams.listen(ANN, "a", 1)
    service.streams.drop(BOB)
    second = service.step("a")

    assert list(first) == [BOB]
    assert places(second[ANN]) == [("a", 1), ("a", 2)]
    assert list(second) == [ANN]


def test_after_a_reconnect_one_goes_on_where_one_stopped(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)
    service.step("a")
    service.streams.drop(ANN)
    service.step("a")
    service.step("a")

    service.streams.credit(b"ann again", 100)
    service.streams.listen(b"ann again", "a", 2)

    assert places(service.step()[b"ann again"]) == [("a", 2), ("a", 3)]


def test_entries_that_are_gone_are_told_as_a_gap(service: Service) -> None:
    service.journal.commit(Batch(entries=[(0, entry("a", 7)), (0, entry("a", 8))]))
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "b", 1)
    service.streams.listen(ANN, "a", 3)

    (answers,) = [batch for _, batch in service.streams.publish([])]

    assert answers == [Gap(stream="a", first=7), Entries(entries=(entry("a", 7), entry("a", 8)))]


def test_a_gap_comes_after_what_was_read_before_it(service: Service) -> None:
    service.happen("a")
    service.journal.commit(Batch(entries=[(0, entry("b", 7))]))
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)
    service.streams.listen(ANN, "b", 1)

    (answers,) = [batch for _, batch in service.streams.publish([])]

    assert answers == [Entries(entries=(entry("a", 1),)), Gap(stream="b", first=7), Entries(entries=(entry("b", 7),))]


def test_an_entry_that_was_published_but_of_which_one_before_is_missing_waits_for_it(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)
    service.happen("a")

    assert places(service.step("a")[ANN]) == [("a", 1), ("a", 2)]


def test_entries_that_are_published_out_of_order_all_arrive_in_order(service: Service) -> None:
    service.streams.credit(ANN, 10)
    service.streams.begin(ANN, "a")
    first, second, third = service.happen("a", "a", "a")

    sent = dict(service.streams.publish([first, third, second]))

    assert places(sent[ANN]) == [("a", 1), ("a", 2), ("a", 3)]
    assert not service.streams.pending


def test_a_long_story_comes_in_portions_while_others_go_on(service: Service) -> None:
    for _ in range(3 * streams.ENTRIES_AT_ONCE):
        service.happen("long")
    service.streams.credit(ANN, 10_000)
    service.streams.listen(ANN, "long", 1)
    service.streams.listen(ANN, "live", 1)

    heard = []
    while service.streams.pending:
        heard.append(places(service.step("live")[ANN]))

    assert max(len(portion) for portion in heard) <= streams.ENTRIES_AT_ONCE + 1
    assert all(portion[0][0] == "live" for portion in heard)
    long = [seq for portion in heard for stream, seq in portion if stream == "long"]
    assert long == list(range(1, 3 * streams.ENTRIES_AT_ONCE + 1))


def test_streams_are_served_in_turn_so_that_none_starves(service: Service) -> None:
    service.happen(*["long"] * 100, "short")
    service.streams.listen(ANN, "long", 1)
    service.streams.listen(ANN, "short", 1)

    heard = []
    for _ in range(3):
        service.streams.credit(ANN, 10)
        heard += places(service.step()[ANN])

    assert ("short", 1) in heard


def test_a_hundred_thousand_streams_of_one_peer_cost_little(service: Service) -> None:
    count = 100_000
    for number in range(count):
        service.streams.listen(ANN, f"job{number}", 1)
    service.streams.credit(ANN, count)

    entries = [entry(f"job{number}", 1) for number in range(count)]
    ((_, answers),) = service.streams.publish(entries)

    assert len(places(answers)) == count
    assert service.journal.reads == 0
    assert not service.streams.pending
    service.streams.drop(ANN)
    assert service.streams.publish([entry("job1", 2)]) == []


def test_credit_that_makes_no_sense_is_bounded(service: Service) -> None:
    service.streams.listen(ANN, "a", 1)
    service.streams.credit(ANN, -5)
    service.streams.credit(ANN, 0)
    assert service.step("a") == {}

    service.streams.credit(ANN, 1 << 80)
    assert places(service.step("a")[ANN]) == [("a", 1), ("a", 2)]


def test_unlistening_what_one_never_listened_to_is_nothing(service: Service) -> None:
    service.streams.unlisten(ANN, "a")
    service.streams.credit(ANN, 1)
    service.streams.unlisten(ANN, "a")
    service.streams.drop(BOB)

    assert service.step("a") == {}


# -- at random --------------------------------------------------------------------------------------------------------

STREAMS = [f"s{number}" for number in range(4)]
READERS = range(3)
names = st.sampled_from(STREAMS)
readers = st.sampled_from(READERS)


class Reader:
    """A client: which entry of which stream it has, and by which name the service knows its connection."""

    def __init__(self) -> None:
        self.connection = 0
        self.since: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.credit = 0


def test_what_was_kept_comes_before_what_follows(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)
    service.streams.publish(())

    assert service.streams.keep(service.happen("a", "a"), 10.0)
    assert service.streams.are_kept

    assert places(service.step("a", "b")[ANN]) == [("a", 1), ("a", 2), ("a", 3)]
    assert not service.streams.are_kept
    assert service.streams.publish(()) == []


def test_entries_are_kept_for_a_moment_only(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)
    service.streams.publish(())

    assert service.streams.keep(service.happen("a"), 10.0)
    assert service.streams.keep(service.happen("a"), 10.0 + streams.KEPT_S / 2)
    late = service.happen("a")

    assert not service.streams.keep(late, 10.0 + streams.KEPT_S)
    assert places(dict(service.streams.publish(late))[ANN]) == [("a", 1), ("a", 2), ("a", 3)]


def test_a_clock_that_goes_back_keeps_nothing_longer(service: Service) -> None:
    assert service.streams.keep(service.happen("a"), 10.0)
    assert not service.streams.keep(service.happen("a"), 9.0)


def test_who_comes_while_entries_are_kept_gets_each_of_them_once(service: Service) -> None:
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)
    service.streams.publish(())
    service.streams.keep(service.happen("a", "b"), 10.0)

    service.streams.credit(BOB, 100)
    service.streams.listen(BOB, "a", 1)
    service.streams.listen(BOB, "b", 2)

    sent = service.step("a", "b")
    assert places(sent[ANN]) == [("a", 1), ("a", 2)]
    assert sorted(places(sent[BOB])) == [("a", 1), ("a", 2), ("b", 2)]


def test_nothing_is_kept_from_who_is_behind(service: Service) -> None:
    service.happen("a")
    service.streams.credit(ANN, 100)
    service.streams.listen(ANN, "a", 1)

    assert not service.streams.keep(service.happen("a"), 10.0)


class RandomStreams(RuleBasedStateMachine):
    """Each reader sees every stream that it listens to gapless, in order, once, and no more than it paid for."""

    def __init__(self) -> None:
        super().__init__()
        # Small portions, so that short stories need several.
        self._portions = streams.ENTRIES_AT_ONCE, streams.STREAMS_AT_ONCE
        streams.ENTRIES_AT_ONCE, streams.STREAMS_AT_ONCE = 3, 2
        self.service = Service()
        self.readers = [Reader() for _ in READERS]

    def peer(self, number: int) -> bytes:
        return f"{number}.{self.readers[number].connection}".encode()

    def publish(self, *happened: str) -> None:
        """Publish, and let the readers read what was sent to them."""
        self.send(self.service.happen(*happened))

    def send(self, happened: list[Entry]) -> None:
        numbers = {self.peer(number): number for number in READERS}
        for peer, answers in self.service.streams.publish(happened):
            reader = self.readers[numbers[peer]]
            for stream, seq in places(answers):
                assert stream in reader.since, "an entry of a stream to which nobody listens"
                assert seq == max(reader.last[stream] + 1, reader.since[stream]), "a gap, a repetition or disorder"
                reader.last[stream] = seq
                reader.credit -= 1
            assert reader.credit >= 0, "more was sent than was paid for"
            assert not any(isinstance(answer, Gap) for answer in answers)

    @rule(happened=st.lists(names, max_size=6))
    def something_happens(self, happened: list[str]) -> None:
        self.publish(*happened)

    @rule(happened=st.lists(names, max_size=6), now=st.floats(0, 2 * streams.KEPT_S))
    def something_is_kept(self, happened: list[str], now: float) -> None:
        made = self.service.happen(*happened)
        if not self.service.streams.keep(made, now):
            self.send(made)

    @rule(reader=readers, entries=st.integers(1, 7))
    def credit(self, reader: int, entries: int) -> None:
        self.readers[reader].credit += entries
        self.service.streams.credit(self.peer(reader), entries)

    @rule(reader=readers, name=names, since=st.integers(1, 12))
    def listen(self, reader: int, name: str, since: int) -> None:
        self.readers[reader].since[name] = since
        self.readers[reader].last[name] = 0
        self.service.streams.listen(self.peer(reader), name, since)

    @rule(reader=readers, name=names)
    def unlisten(self, reader: int, name: str) -> None:
        self.readers[reader].since.pop(name, None)
        self.service.streams.unlisten(self.peer(reader), name)

    @rule(reader=readers)
    def reconnect(self, reader: int) -> None:
        self.service.streams.drop(self.peer(reader))
        known = self.readers[reader]
        known.connection += 1
        known.credit = 0
        for name, since in known.since.items():
            self.service.streams.listen(self.peer(reader), name, max(known.last[name] + 1, since))

    @precondition(lambda self: self.service.streams.pending or self.service.streams.are_kept)
    @rule()
    def go_on(self) -> None:
        self.publish()

    @invariant()
    def nobody_waits_who_could_be_served(self) -> None:
        """What a reader with credit has not got is either noted as pending, or is not there."""
        if self.service.streams.pending or self.service.streams.are_kept:
            return
        for reader in self.readers:
            for name, since in reader.since.items():
                if reader.credit:
                    wanted = max(reader.last[name] + 1, since)
                    assert wanted > self.service.seqs.get(name, 0)

    def teardown(self) -> None:
        for number in READERS:
            self.readers[number].credit += 1000
            self.service.streams.credit(self.peer(number), 1000)
        while self.service.streams.pending or self.service.streams.are_kept:
            self.publish()
        streams.ENTRIES_AT_ONCE, streams.STREAMS_AT_ONCE = self._portions
        for reader in self.readers:
            for name, since in reader.since.items():
                last = self.service.seqs.get(name, 0)
                assert reader.last[name] == (last if last >= since else reader.last[name])


TestRandomStreams = RandomStreams.TestCase
TestRandomStreams.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
