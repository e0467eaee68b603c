"""The workers of a daemon and their keepers, as the executor sees them: ``crew``, ``hand`` and ``nursery`` for what
lasts.

There is one keeper for new workers. Where the service was upgraded, the keepers of other versions stay until what they
run has ended. Frames are looked at, and taken out of the socket by ``settle``. Rule: as for ``crew``: it passes on what
it hears; what follows from that is decided in ``lasting`` and ``processes``.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from pathlib import Path

import msgspec

from trun.executors import heritage, zygote
from trun.executors.crew import Crew
from trun.executors.hand import Hand
from trun.executors.heritage import Kept
from trun.executors.keeping import Keeping, hear_greeting
from trun.executors.lastinghand import LastingHand
from trun.executors.nursery import kill_marked, mark_of
from trun.version import __version__

_log = logging.getLogger(__name__)

#: Seconds within which a keeper answers; one that does not is killed, with all it runs.
_PATIENCE_S = 15.0
#: What a worker that was found has in its module path: nobody can say, so it gets no orders that come later.
UNKNOWN = ("?",)


class LastingCrew(Crew):
    """The workers, and the keepers of all versions that have some."""

    nursery: Keeping | None

    def __init__(self, folder: Path, service_key: str, threads: int, *, grace: float, linger: float) -> None:
        super().__init__(folder, service_key, threads)
        self._limits = {"grace": grace, "linger": linger}
        #: Keepers of other versions.
        self._elders: list[Keeping] = []
        #: Workers that are dead, with their files: to be buried after the next commit, and after the one that follows.
        self._next_dead: list[tuple[Keeping, int]] = []
        self._next_paths: list[Path] = []
        self._dead: list[tuple[Keeping, int]] = []
        self._paths: list[Path] = []
        #: Whether whoever ran attempts of this folder before was found, so that what it does not know was never begun.
        self.knows_all = False

    # -- taking over

    def take_over(self) -> list[tuple[LastingHand, Kept]]:
        """Find the keepers of this folder and their workers; what a dead one left is killed."""
        found: list[tuple[LastingHand, Kept]] = []
        paths = sorted((self._folder / "keepers").glob("*.sock"))
        reached = 0
        for path in paths:
            hands = self._meet(path)
            if hands is None:
                kill_marked(mark_of(path.stem))
                path.unlink(missing_ok=True)
            else:
                reached += 1
                found.extend(hands)
        self.knows_all = 0 < reached == len(paths)
        return found

    def _meet(self, path: Path) -> list[tuple[LastingHand, Kept]] | None:
        connection = heritage.connect(path, _PATIENCE_S)
        if connection is None:
            return None
        pid = heritage.peer(connection)[0]
        try:
            greeting, kept = hear_greeting(connection)
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            _log.error("the keeper of running jobs does not answer pid=%d reason=%r", pid, error)
            connection.close()
            if pid != os.getpid():
                heritage.kill_process(pid, _PATIENCE_S)
            return None
        connection.setblocking(False)
        keeping = Keeping(connection, greeting.name, self._folder / "logs" / "zygote.log")
        is_ours = greeting.version == __version__ and self.nursery is None
        if is_ours:
            self.nursery, self._name = keeping, greeting.name
        else:
            self._elders.append(keeping)
        self._epoll.register(connection, select.EPOLLIN)
        return [(self._adopt(keeping, one, fds, is_ours), one) for one, fds in kept]

    def _adopt(self, keeping: Keeping, kept: Kept, fds: tuple[int, int, int, int], is_ours: bool) -> LastingHand:
        name = f"{keeping.name}-{kept.number}"
        hand = LastingHand(kept.number, name, self._folder, keeping, fds)
        hand.pid = kept.pid
        hand.ready = True
        hand.paths = UNKNOWN
        hand.closing = not is_ours
        if kept.alive:
            hand.is_forked(kept.pid)
            if heritage.start_of(kept.pid) != kept.start and hand.pidfd >= 0:
                _log.error("process is another one than before pid=%d", kept.pid)
                os.close(hand.pidfd)
                hand.pidfd = -1
        left = heritage.record_path(self._folder, name)
        if left.exists():
            hand.left = left
        if is_ours:
            self._number = max(self._number, kept.number)
        else:  # its number may be that of one of ours
            hand.number = keeping.renamed[kept.number] = -len(self.hands) - 1
        self._add(hand)
        return hand

    # -- as before

    def _start_nursery(self) -> Keeping:
        path = heritage.socket_path(self._folder, self._name)
        path.unlink(missing_ok=True)
        listener = heritage.listen(path)
        try:
            return Keeping.start(
                self._folder,
                self._name,
                self._service_key,
                self._threads,
                facts={"listener": listener.fileno(), **self._limits},
                fds=(listener.fileno(),),
            )
        finally:
            listener.close()

    def _make_hand(self, number: int, name: str) -> Hand:
        assert self.nursery is not None
        return LastingHand(number, name, self._folder, self.nursery)

    def signal(self, hand: Hand, signum: int, *, group: bool) -> None:
        """Send a signal by the keeper to whom the worker belongs."""
        if isinstance(hand, LastingHand):
            hand.keeping.signal(hand, signum, group=group)

    def speaking(self) -> tuple[list[Hand], bool]:
        """Return the workers that have something to say now, and whether a keeper has."""
        for elder in self._elders:
            elder.flush()
        return super().speaking()

    def news(self) -> list[zygote.Exited | zygote.NotForked] | None:
        """Return which workers have ended; None when the keeper of ours is dead."""
        ends: list[zygote.Exited | zygote.NotForked] = []
        for elder in list(self._elders):
            elder.flush()
            found = elder.receive()
            if found is None:
                ends.extend(self._bury_elder(elder))
                continue
            for one in found:
                if isinstance(one, zygote.Exited):
                    ends.append(msgspec.structs.replace(one, number=elder.renamed.get(one.number, 0)))
        if self.nursery is None:
            return ends
        own = super().news()
        return own if own is None and not ends else [*ends, *(own or [])]

    def _bury_elder(self, elder: Keeping) -> list[zygote.Exited | zygote.NotForked]:
        """A keeper of another version is dead, and its workers with it."""
        self._elders.remove(elder)
        self._epoll.unregister(elder.connection)
        elder.leave()
        elder.kill_marked()
        hands = [hand for hand in self.hands.values() if isinstance(hand, LastingHand) and hand.keeping is elder]
        for hand in hands:
            hand.kill()
        return [zygote.Exited(number=hand.number, status=int(signal.SIGKILL), peak_rss=0) for hand in hands]

    def bury_nursery(self) -> None:
        """Clean up after our keeper, which died."""
        if self.nursery is not None:
            heritage.socket_path(self._folder, self.nursery.name).unlink(missing_ok=True)
            for elder in self._elders:  # one end is as good as the other: nobody can say what became of what they ran
                self._epoll.unregister(elder.connection)
                elder.close()
            self._elders = []
        super().bury_nursery()

    def mute(self, hand: LastingHand) -> None:
        """Do not wait for what a worker says, which would not be taken out of the socket: it is about to die."""
        if not hand.muted:
            hand.muted = True
            self._epoll.modify(hand.jobs, 0)

    def remove(self, hand: Hand) -> None:
        """Forget a worker that is dead, when what it said is written down."""
        if isinstance(hand, LastingHand) and hand.number in self.hands:
            self._next_dead.append((hand.keeping, hand.zygote_number))
            self._next_paths.extend(hand.remains())
        super().remove(hand)

    # -- what is written down

    @property
    def is_unsettled(self) -> bool:
        """Whether sockets hold what was returned and is not written down yet."""
        return any(isinstance(hand, LastingHand) and hand.returned for hand in self.hands.values())

    def settle_later(self, path: Path) -> None:
        """Remove a file when what stood in it is written down."""
        self._next_paths.append(path)

    def have_returned(self) -> None:
        """All that was heard so far has gone to the engine."""
        for hand in self.hands.values():
            if isinstance(hand, LastingHand):
                hand.have_returned()
                if hand.held is not None:
                    self.mute(hand)
        if self._next_dead:
            self._dead += self._next_dead
            self._next_dead = []
        if self._next_paths:
            self._paths += self._next_paths
            self._next_paths = []

    def settle(self) -> None:
        """All that was returned is written down."""
        for hand in self.hands.values():
            if isinstance(hand, LastingHand) and (hand.returned or hand.left_returned):
                hand.settle()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()
        if self._dead:
            self._bury()

    def _bury(self) -> None:
        dead, self._dead = self._dead, []
        keepers = [self.nursery, *self._elders]
        for keeping in keepers:
            numbers = tuple(number for owner, number in dead if owner is keeping)
            if keeping is not None and numbers:
                keeping.bury(numbers)
        for elder in list(self._elders):
            if not any(isinstance(hand, LastingHand) and hand.keeping is elder for hand in self.hands.values()):
                self._elders.remove(elder)
                self._epoll.unregister(elder.connection)
                elder.close()

    # -- the end

    def leave(self) -> None:
        """Go, and leave all workers to their keepers."""
        for hand in self.hands.values():
            hand.close()
        for keeping in (self.nursery, *self._elders):
            if keeping is not None:
                keeping.leave()
        self._epoll.close()

    def close(self) -> list[Hand]:
        """End all workers and what they started; returns the workers when they are dead."""
        for elder in self._elders:
            elder.close()
        return super().close()
