"""Several listeners to one stream: late ones begin at the begin, and a refusal touches only whom it concerns."""

from __future__ import annotations

from trun.listening import Several
from trun.messages import Entry, ErrorInfo, Queued


class Note:
    """A listener that notes what it hears."""

    def __init__(self) -> None:
        self.seq = 0
        self.heard: list[int] = []
        self.refused: list[str] = []

    def take(self, entry: Entry) -> None:
        self.heard.append(entry.seq)

    def refuse(self, error: ErrorInfo) -> None:
        self.refused.append(error.message)


def entry(seq: int) -> Entry:
    return Entry(stream="s", seq=seq, epoch=1, time=0.0, event=Queued())


def test_who_joins_late_hears_the_stream_from_its_begin() -> None:
    early, late = Note(), Note()
    both = Several([early])
    both.take(entry(1))
    both.listeners.append(late)

    for seq in (2, 1, 2, 3):
        both.take(entry(seq))

    assert early.heard == late.heard == [1, 2, 3]


def test_a_refusal_leaves_alone_who_was_accepted() -> None:
    accepted, second = Note(), Note()
    both = Several([accepted])
    both.take(entry(1))
    both.listeners.append(second)

    both.refuse(ErrorInfo(type="x", message="no"))
    both.take(entry(2))

    assert (accepted.heard, accepted.refused) == ([1, 2], [])
    assert (second.heard, second.refused) == ([], ["no"])


def test_after_a_gap_listeners_go_on_behind_it() -> None:
    one = Note()
    both = Several([one])

    both.skip(4)
    both.take(entry(5))

    assert one.heard == [5]
