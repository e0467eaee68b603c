"""Conditions on time: leaves that settle at an instant, and gates that look at how long or in which order.

``after`` and ``within`` count from registration; ``at``, ``before`` and ``cron`` are instants. ``held`` asks that its
child has held without a break for a while; ``since`` is a latch ordered by sequence number. All are plain data here:
deadlines are kept by the resolver, which asks each leaf for its ``deadline`` and is told the time; nobody here looks
at a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from datetime import time as daytime
from typing import Any

from trun.conditions.algebra import Condition, Leaf, Unary, _operand, digest, faces
from trun.conditions.value import HOLDS, NEVER, TRUE, WAIT, Value
from trun.errors import BadOption, MissingExtra

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def span_seconds(span: Any, what: str) -> float:
    """Return a time span in seconds: a number, a timedelta, or text such as ``"90s"``, ``"10m"``, ``"1h30m"``."""
    if isinstance(span, timedelta):
        found = span.total_seconds()
    elif isinstance(span, (int, float)) and not isinstance(span, bool):
        found = float(span)
    elif isinstance(span, str):
        found = _parse_span(span, what)
    else:
        raise BadOption(f'{what} must be seconds, a timedelta or text such as "10m", not {span!r}.')
    if not 0 <= found < float("inf"):
        raise BadOption(f"{what} must be at least 0 s and finite, not {span!r}.")
    return found


def _parse_span(text: str, what: str) -> float:
    plain = text.replace(" ", "").lower()
    try:
        return float(plain)
    except ValueError:
        pass
    total, number, unit = 0.0, "", ""
    for char in plain + "0":
        if char.isalpha():
            unit += char
            continue
        if unit:
            if unit not in _UNITS or not number:
                break
            total += float(number) * _UNITS[unit]
            number = unit = ""
        number += char
    else:
        if number == "0" and not unit and plain:
            return total
    raise BadOption(f'{what} {text!r} is no time span; write "90s", "10m", "1h30m" or "2d".')


def span_words(span_s: float) -> str:
    """Return a time span for people, as exactly as it was given: ``0.2 s``, ``10 min``, ``1 h 30 min``, ``2 d``."""
    if span_s < 60:
        return f"{span_s:g} s"
    parts, rest = [], round(span_s, 3)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = (divmod(rest, size)) if size > 1 else (rest, 0.0)
        if count:
            parts.append(f"{count:.10g} {unit}")
    return " ".join(parts)


def instant_words(instant: float) -> str:
    """Return an instant for people, in local time: ``2026-11-22 02:00 CET``."""
    try:
        moment = datetime.fromtimestamp(instant).astimezone()
    except (ValueError, OverflowError, OSError):
        return f"{instant:g} s after 1970"
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z" if moment.second else "%Y-%m-%d %H:%M %Z")


class TimeLeaf(Leaf):
    """A leaf that time decides. ``deadline(origin)`` is the instant at which ``before`` turns into ``after``."""

    __slots__ = ()
    #: Values before and after the deadline.
    early: Value = WAIT
    late: Value = TRUE

    def deadline(self, origin: float) -> float:
        """Return when it settles, in seconds since the epoch, if it was registered at ``origin``."""
        raise NotImplementedError

    def words(self) -> tuple[str, ...]:
        """Return what makes it what it is, for its key."""
        raise NotImplementedError

    def passed(self) -> str:
        """Say in words that the deadline lies behind."""
        raise NotImplementedError

    @property
    def latch(self) -> Value:
        """Before anything is registered: undecided, or holding for now."""
        return self.early


class After(TimeLeaf):
    """True once so many seconds have passed since registration."""

    __slots__ = ("span_s",)

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self._key = digest(*self.words())

    def deadline(self, origin: float) -> float:
        """Return registration plus span."""
        return origin + self.span_s

    def words(self) -> tuple[str, ...]:
        """Return kind and span."""
        return "after", repr(self.span_s)

    def passed(self) -> str:
        """Say that the time has passed."""
        return f"{span_words(self.span_s)} have passed"


class Deadline(After):
    """Holds for so many seconds after registration, then never again."""

    __slots__ = ()
    early = HOLDS
    late = NEVER

    def words(self) -> tuple[str, ...]:
        """Return kind and span."""
        return "deadline", repr(self.span_s)

    def passed(self) -> str:
        """Say that there is no time left."""
        return f"the deadline of {span_words(self.span_s)} has passed"


class At(TimeLeaf):
    """True from an instant on (seconds since the epoch, UTC)."""

    __slots__ = ("instant",)

    def __init__(self, instant: float) -> None:
        self.instant = instant
        self._key = digest(*self.words())

    def deadline(self, origin: float) -> float:
        """Return the instant."""
        return self.instant

    def words(self) -> tuple[str, ...]:
        """Return kind and instant."""
        return "at", repr(self.instant)

    def passed(self) -> str:
        """Say that the instant has come."""
        return f"it is {instant_words(self.instant)} or later"


class Before(At):
    """Holds until an instant, then never again."""

    __slots__ = ()
    early = HOLDS
    late = NEVER

    def words(self) -> tuple[str, ...]:
        """Return kind and instant."""
        return "before", repr(self.instant)

    def passed(self) -> str:
        """Say that it is too late."""
        return f"the deadline of {instant_words(self.instant)} has passed"


class Cron(TimeLeaf):
    """True from the first instant after registration that a cron expression names."""

    __slots__ = ("expression", "tz")

    def __init__(self, expression: str, tz: str | None = None) -> None:
        self.expression = expression
        self.tz = tz
        self.deadline(0.0)
        self._key = digest(*self.words())

    def deadline(self, origin: float) -> float:
        """Return the first instant after ``origin`` that the expression names."""
        return next_cron(self.expression, origin, self.tz)

    def words(self) -> tuple[str, ...]:
        """Return kind, expression and time zone."""
        return "cron", self.expression, self.tz or ""

    def passed(self) -> str:
        """Say that the instant has come."""
        return f"a time named by {self.expression!r} has come"


def next_cron(expression: str, origin: float, tz: str | None) -> float:
    """Return the first instant after ``origin`` that a cron expression names; None as zone is local time."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise MissingExtra("cron(...) needs cronsim: pip install 'trun[schedule]'") from None
    zone = _zone(tz)
    start = datetime.fromtimestamp(origin, zone) if zone is not None else datetime.fromtimestamp(origin).astimezone()
    try:
        found: datetime = next(CronSim(expression, start))
    except (CronSimError, StopIteration) as error:
        raise BadOption(f'{expression!r} is no cron expression ({error}); five fields, such as "30 0 * * *".') from None
    return found.timestamp()


def _zone(name: str | None) -> tzinfo | None:
    if name is None:
        return None
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise BadOption(f"{name!r} is no time zone; write a name such as 'Europe/Berlin' or 'UTC'.") from None


class Held(Unary):
    """Holds once its child has held without a break for so many seconds."""

    __slots__ = ("span_s",)
    op = "held"

    def __init__(self, condition: Condition, span_s: float) -> None:
        super().__init__(condition)
        self.span_s = span_s

    def words(self) -> tuple[str, ...]:
        """Return kind and span."""
        return "held", repr(self.span_s)

    def combine(self, values: Sequence[Value]) -> Value:
        """Without a clock: what is false for good stays so, all else waits."""
        return values[0] if values[0] <= NEVER else WAIT

    table = (Value.CANCELLED, NEVER, WAIT, WAIT, WAIT)


class Since(Condition):
    """Holds while the trigger became true later (by sequence number) than the reset did."""

    __slots__ = ("reset", "trigger")
    op = "since"

    def __init__(self, trigger: Condition, reset: Condition) -> None:
        self.trigger = _operand(trigger, "since")
        self.reset = _operand(reset, "since")

    @property
    def of(self) -> tuple[Condition, ...]:
        """Trigger and reset."""
        return self.trigger, self.reset

    def words(self) -> tuple[str, ...]:
        """Return the kind."""
        return ("since",)

    def combine(self, values: Sequence[Value]) -> Value:
        """Without sequence numbers: true if only the trigger is; undecided if both are."""
        trigger, reset = values
        if trigger <= NEVER:
            return trigger
        if trigger < HOLDS or reset >= HOLDS:
            return WAIT
        return TRUE if trigger is TRUE and reset <= NEVER else HOLDS


def after(span: Any) -> After:
    """Return the condition that a time span has passed since registration (submit)."""
    return After(span_seconds(span, "after"))


def at(moment: Any) -> At:
    """Return the condition that it is this moment or later: a datetime (naive: local time), or ``"02:00"``."""
    return At(_instant(moment, "at"))


def before(moment: Any) -> Before:
    """Return the condition that it is not yet this moment: holds until then, then never again."""
    return Before(_instant(moment, "before"))


def cron(expression: str, tz: str | None = None) -> Cron:
    """Return the condition that the next instant named by a cron expression after registration has come."""
    if not isinstance(expression, str):
        raise BadOption(f'cron takes a text such as "30 0 * * *", not {expression!r}.')
    return Cron(expression, tz)


def held(condition: Condition, span: Any) -> Held:
    """Return the condition that ``condition`` has held without a break for a time span."""
    return Held(condition, span_seconds(span, "held"))


def since(trigger: Condition, reset: Condition) -> Since:
    """Return the condition that ``trigger`` came true after ``reset`` last did."""
    return Since(trigger, reset)


def _instant(moment: Any, what: str) -> float:
    if isinstance(moment, datetime):
        return moment.timestamp()
    if isinstance(moment, (int, float)) and not isinstance(moment, bool):
        return float(moment)
    if isinstance(moment, str):
        try:
            clock = daytime.fromisoformat(moment)
        except ValueError:
            clock = None
        if clock is not None and len(moment) <= 8:
            now = datetime.now()
            found = datetime.combine(now.date(), clock)
            return (found if found > now else found + timedelta(days=1)).timestamp()
        try:
            return datetime.fromisoformat(moment).timestamp()
        except ValueError:
            pass
    raise BadOption(f'{what} takes a datetime or a time such as "02:00" or "2026-11-21 02:00", not {moment!r}.')


faces["deadline"] = lambda span: Deadline(span_seconds(span, "within"))
