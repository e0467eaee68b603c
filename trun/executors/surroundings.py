"""What a payload can change around itself: environment variables and signal handlers, put back before the next one.

Working folder, umask and module path are set for each payload by ``launcher``. What cannot be put back stays with the
warm process: its niceness, resource limits, loaded modules and their state; ``isolation="fresh"`` is for those.

Costs about 2 microseconds where nothing was changed: two comparisons with what was there before the first payload.
Who may come in: ``worker``. Rule: look, and touch only what differs.
"""

from __future__ import annotations

import os
import signal
from _signal import getsignal  # type: ignore[import-not-found]  # that of ``signal`` costs a failed enum
from typing import Any

#: The signals for which payloads have handlers; asking for all of them would cost five times as much.
SIGNALS = tuple(
    int(number)
    for number in (
        *(signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGALRM, signal.SIGPIPE),
        *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU),
    )
)


class Surroundings:
    """The environment and the signal handlers of this process as they are now; made and used in the main thread."""

    def __init__(self) -> None:
        self._environ: Any = os.environ
        #: What ``os.environ`` keeps: comparing it does not decode anything.
        self._now: dict[bytes, bytes] = vars(os.environ)["_data"]
        self._variables = dict(self._now)
        self._handlers = list(map(getsignal, SIGNALS))

    def restore(self) -> None:
        """Put back what differs."""
        if self._now != self._variables or os.environ is not self._environ:
            self._restore_variables()
        if list(map(getsignal, SIGNALS)) != self._handlers:
            self._restore_handlers()

    def _restore_variables(self) -> None:
        os.environ = self._environ  # noqa: B003 - the very object that was there
        for name in [name for name in self._now if name not in self._variables]:
            del os.environb[name]
        for name, value in self._variables.items():
            if self._now.get(name) != value:
                os.environb[name] = value

    def _restore_handlers(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # the handler that it was meant for goes
        for number, handler in zip(SIGNALS, self._handlers, strict=True):
            if getsignal(number) is not handler and handler is not None:  # None: set by C, out of our reach
                signal.signal(number, handler)


__all__ = ["SIGNALS", "Surroundings"]
