"""Conditions from text, and to it: ``parse`` and ``write``.

    or := and ("|" and)*      and := unary ("&" unary)*      unary := ("~" | "!" | "-" | "not") unary | operand
    operand := name | name.outcome | call | "(" or ")"       && || and, or mean the same as & |

Names stand for what the caller says they stand for; a name alone means "completed". Nothing is evaluated: words outside
the grammar are errors with their position. Iterative (a stack of open brackets), so that no depth of text exhausts
the stack.

Rule: what ``write`` writes, ``parse`` reads back as an equal condition.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from trun.conditions import atoms, timing
from trun.conditions.algebra import And, AtLeast, Condition, Never, Not, Or, Settled
from trun.conditions.atoms import JOB_ATOMS
from trun.conditions.check import warn
from trun.conditions.naming import Names
from trun.conditions.writing import write
from trun.errors import ConditionSyntaxError, MissingExtra, TrunError, nearest

__all__ = ["parse", "write"]

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<name>[^\W\d][\w\#/]*)
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<mark>&&|\|\||[<>=!]=|[<>&|!~\-().,=\[\]*%])
    | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_AND = frozenset({"&", "&&", "and"})
_OR = frozenset({"|", "||", "or"})
_NOT = frozenset({"~", "!", "-", "not"})
_WORDS = frozenset({"and", "or", "not"})
_UNESCAPE = {"n": "\n", "r": "\r", "t": "\t"}


class _Token(NamedTuple):
    kind: str
    value: str
    at: int

    #: The text again for operators and brackets; empty for names, numbers and quoted texts.
    mark: str

    def __str__(self) -> str:
        return "the end" if self.kind == "end" else repr(self.value)


class _Open:
    """A bracket that is still open: of a group, or of a call over conditions."""

    __slots__ = ("arguments", "at", "call", "factors", "marks", "terms", "threshold")

    def __init__(self, call: str, at: int) -> None:
        self.call = call
        self.at = at
        #: Arguments that are complete.
        self.arguments: list[Condition] = []
        #: Terms of the present Or, factors of its present And.
        self.terms: list[Condition] = []
        self.factors: list[Condition] = []
        #: Negations before the operand that comes next.
        self.marks = 0
        self.threshold: int | str = 0


#: Calls over conditions, with how many they take.
_GATES = {
    "all": (0, None),
    "all_of": (0, None),
    "any": (0, None),
    "any_of": (0, None),
    "at_least": (0, None),
    "atleast": (0, None),
    "never": (1, 1),
    "settled": (1, 1),
    "held": (1, 1),
    "since": (2, 2),
}
#: Calls over texts and numbers: what they make, least and most arguments, names of further ones.
_LEAVES: dict[str, tuple[Callable[..., Condition], int, int, tuple[str, ...]]] = {
    "after": (timing.after, 1, 1, ()),
    "within": (lambda span: timing.Deadline(timing.span_seconds(span, "within")), 1, 1, ()),
    "at": (timing.at, 1, 1, ()),
    "before": (timing.before, 1, 1, ()),
    "cron": (timing.cron, 1, 2, ("tz",)),
    "exists": (atoms.exists, 1, 2, ("poll",)),
    "changed": (atoms.changed, 1, 2, ("poll",)),
    "url_ok": (atoms.url_ok, 1, 2, ("poll",)),
    "free": (atoms.free, 1, 2, ()),
}
_OUTCOMES = [kind for kind in JOB_ATOMS if kind not in ("message", "result", "progress", "reached")]
#: Words behind the point that take an argument -> kind of atom.
_CALLED = {"result": "result", "improved": "result", "message": "message", "said": "message", "reaches": "reaches"}


def parse(text: str, names: Mapping[str, Any] | Callable[[str], Any] | None = None) -> Condition:
    """Return the condition that a text describes.

    Parameters
    ----------
    text
        Such as ``a.iscompleted & (b.iscompleted | after("30m"))``.
    names
        What the names in it stand for: conditions, jobs, groups, steps, uids, or lists of them for ``name[*]``; or a
        function from name to thing, which raises LookupError or returns None for names that it does not know.

    Raises
    ------
    ConditionSyntaxError
        With ``position``, from 0, where the text is no condition; names that nothing stands for among that.

    Warns
    -----
    ConditionWarning
        For what is legal but probably not meant (``~`` on an outcome).
    """
    if not isinstance(text, str):
        raise ConditionSyntaxError(f"a condition as text was expected, not {type(text).__name__} ({text!r:.80}).")
    found = _Reader(text, names).read()
    warn(found)
    return found


class _Reader:
    """Reads one text from left to right."""

    def __init__(self, text: str, names: Mapping[str, Any] | Callable[[str], Any] | None) -> None:
        self.text = text
        self.names = Names(names)
        self.tokens = list(self.split())
        self.place = 0
        self.open: list[_Open] = [_Open("", 0)]
        #: ids of conditions that stand for a family (name[*]): all of them, or so many arguments.
        self.families: dict[int, Condition] = {}

    # -- words

    def split(self) -> Iterable[_Token]:
        """Give the words of the text."""
        at = 0
        while True:
            found = _TOKEN.match(self.text, at)
            if found is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                what = "a quoted text that does not end" if self.text[at] in "\"'" else repr(self.text[at])
                raise self.fault(f"{what} has no place in a condition", at)
            kind = found.lastgroup or ""
            value = found[kind]
            mark = value if kind == "mark" or value in _WORDS else ""
            yield _Token(kind, value, found.start(kind), mark)
            at = found.end()
            if kind == "end":
                return

    def next(self) -> _Token:
        """Take the next word."""
        token = self.tokens[self.place]
        self.place = min(self.place + 1, len(self.tokens) - 1)
        return token

    def peek(self, further: int = 0) -> str:
        """Return the operator or bracket that comes next, or an empty text."""
        return self.tokens[min(self.place + further, len(self.tokens) - 1)].mark

    def take(self, mark: str) -> _Token:
        """Take this operator or bracket."""
        token = self.next()
        if token.mark != mark:
            raise self.fault(f"{mark!r} was expected, not {token}", token.at)
        return token

    def fault(self, what: str, at: int) -> ConditionSyntaxError:
        """Return the error that says what is wrong where."""
        text = self.text if len(self.text) <= 100 else f"...{self.text[max(0, at - 50) : at + 50]}..."
        end = "" if what.endswith(("?", ".")) else "."
        return ConditionSyntaxError(f"in the condition {text!r}, character {at + 1}: {what}{end}", position=at)

    def build(self, at: int, make: Callable[[], Condition]) -> Condition:
        """Make a part; what is wrong with its arguments becomes an error with a position."""
        try:
            return make()
        except MissingExtra:
            raise
        except ConditionSyntaxError as error:
            if not hasattr(error, "name"):
                raise self.fault(str(error), at) from None
            error.position = at
            raise
        except (TrunError, ValueError, TypeError, OverflowError) as error:
            raise self.fault(str(error), at) from None

    # -- the grammar

    def read(self) -> Condition:
        """Return the condition of the whole text."""
        if self.tokens[0].kind == "end":
            raise self.fault("a condition was expected, but the text is empty (all() always holds)", 0)
        while True:
            self.read_operand()
            while (following := self.read_operator()) == "operator":
                pass
            if following == "end":
                return self.expression(self.open[0])

    def read_operand(self) -> None:
        """Read up to and with one operand; opening brackets on the way stay open."""
        while True:
            token = self.next()
            if token.mark in _NOT:
                self.open[-1].marks += 1
            elif token.mark == "(":
                self.open.append(_Open("(", token.at))
            elif token.kind == "name" and not token.mark and self.peek() == "(":
                if self.read_call(token):
                    return
            elif token.kind in ("name", "text") and not token.mark:
                self.done(self.read_name(token))
                return
            elif token.mark == ")" and self.may_end_here():
                self.place -= 1
                return
            else:
                raise self.fault(f"a condition was expected, not {token}", token.at)

    def may_end_here(self) -> bool:
        """Whether a call may be closed without a further argument: ``all()``, or after a last comma."""
        frame = self.open[-1]
        return frame.call in _GATES and not (frame.terms or frame.factors or frame.marks)

    def read_operator(self) -> Literal["operator", "operand", "end"]:
        """Read what follows an operand, and say what must come after that."""
        frame = self.open[-1]
        token = self.tokens[self.place]
        if token.kind == "end":
            if len(self.open) > 1:
                raise self.fault("this bracket is not closed", frame.at)
            return "end"
        self.next()
        if token.mark == ")" and len(self.open) > 1:
            self.close(token)
            return "operator"
        if not frame.factors:
            raise self.fault(f"a condition was expected, not {token}", token.at)
        if token.mark in _AND:
            return "operand"
        if token.mark in _OR:
            frame.terms.append(_both(frame.factors))
            frame.factors = []
            return "operand"
        if token.mark == "," and frame.call in _GATES:
            self.add_argument(frame)
            if frame.call == "held":
                self.finish_held(frame)
                return "operator"
            return "operand"
        raise self.fault(f"an operator such as & or | was expected, not {token}{_hint(token)}", token.at)

    def expression(self, frame: _Open) -> Condition:
        """Return what stands between the brackets so far."""
        terms = [*frame.terms, _both(frame.factors)]
        frame.terms, frame.factors = [], []
        return terms[0] if len(terms) == 1 else Or(*terms)

    def done(self, condition: Condition) -> None:
        """Take a complete operand into the innermost bracket."""
        while self.peek() == "." and self.tokens[self.place + 1].value == "within" and self.peek(2) == "(":
            at = self.next().at
            self.next()
            span, _ = self.literals()
            deadline = self.build(at, functools.partial(_LEAVES["within"][0], *span))
            condition = And(condition, deadline)
        frame = self.open[-1]
        for _ in range(frame.marks):
            condition = Not(condition)
        frame.marks = 0
        frame.factors.append(condition)

    def add_argument(self, frame: _Open) -> None:
        """The present expression is one argument of the call; a family is as many as it has members."""
        found = self.expression(frame)
        if id(found) in self.families and frame.call not in ("never", "settled", "held", "since"):
            frame.arguments.extend(found.of)
        else:
            frame.arguments.append(found)

    # -- brackets and calls

    def close(self, token: _Token) -> None:
        """Close the innermost bracket."""
        frame = self.open[-1]
        if frame.marks:
            raise self.fault(f"a condition was expected, not {token}", token.at)
        if frame.call == "(":
            if not frame.factors:
                raise self.fault("a condition was expected, not ')'", token.at)
            found = self.expression(frame)
        else:
            if frame.factors:
                self.add_argument(frame)
            if frame.call == "held":
                raise self.fault('held(condition, "60s") takes a time span too', token.at)
            least, most = _GATES[frame.call]
            if len(frame.arguments) < least or (most is not None and len(frame.arguments) > most):
                what = "condition" if least == 1 else "conditions"
                raise self.fault(f"{frame.call}(...) takes {least} {what}, not {len(frame.arguments)}", frame.at)
            found = self.build(frame.at, lambda: _gate(frame))
        self.open.pop()
        self.done(found)

    def finish_held(self, frame: _Open) -> None:
        """Read the time span and closing bracket of ``held``."""
        span = self.literal()
        self.take(")")
        found = self.build(frame.at, lambda: timing.held(frame.arguments[0], span))
        self.open.pop()
        self.done(found)

    def read_call(self, name: _Token) -> bool:
        """Read a call; True if it is complete, False if its arguments are conditions, which come next."""
        if name.value in _GATES:
            self.next()
            frame = _Open(name.value, name.at)
            if name.value in ("at_least", "atleast"):
                frame.threshold = self.literal()
                if self.peek() == ",":
                    self.next()
                elif self.peek() != ")":
                    raise self.fault(f"',' was expected, not {self.tokens[self.place]}", self.tokens[self.place].at)
            self.open.append(frame)
            return False
        if name.value not in _LEAVES:
            hint = nearest(name.value, [*_GATES, *_LEAVES]) or (
                " A race is made in Python: trun.first(...)." if name.value == "first" else ""
            )
            raise self.fault(f"there is no {name.value}(...) in conditions.{hint}", name.at)
        make, least, most, further = _LEAVES[name.value]
        given, named = self.literals()
        for word in named:
            if word not in further:
                raise self.fault(f"{name.value}(...) takes no {word}=.{nearest(word, further)}", name.at)
        if not least <= len(given) + len(named) <= most or len(given) < least:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise self.fault(f"{name.value}(...) takes {wanted} arguments, not {len(given) + len(named)}", name.at)
        self.done(self.build(name.at, lambda: make(*given, **named)))
        return True

    def literals(self) -> tuple[list[Any], dict[str, Any]]:
        """Read bracketed texts and numbers, some of them by name."""
        self.take("(")
        given: list[Any] = []
        named: dict[str, Any] = {}
        while self.peek() != ")":
            if self.tokens[self.place].kind == "name" and self.peek(1) == "=":
                word = self.next().value
                self.next()
                named[word] = self.literal()
            else:
                given.append(self.literal())
            if self.peek() not in (",", ")"):
                raise self.fault(f"',' or ')' was expected, not {self.tokens[self.place]}", self.tokens[self.place].at)
            if self.peek() == ",":
                self.next()
        self.next()
        return given, named

    def literal(self) -> Any:
        """Read one text or number."""
        token = self.next()
        if token.kind == "text":
            return _unquoted(token.value)
        sign = 1
        if token.mark == "-":
            sign, token = -1, self.next()
        if token.kind == "number":
            plain = token.value.isdigit() and len(token.value) < 16
            return sign * (int(token.value) if plain else float(token.value))
        raise self.fault(f"a text in quotes or a number was expected, not {token}", token.at)

    # -- names

    def read_name(self, token: _Token) -> Condition:
        """Read a name, what stands in square brackets behind it, and the outcome behind the point."""
        name = _unquoted(token.value) if token.kind == "text" else token.value
        family = False
        if self.peek() == "[":
            self.next()
            index = self.next()
            family = index.mark == "*"
            if not family and index.kind not in ("name", "number"):
                raise self.fault(f"* or a number was expected, not {index}", index.at)
            self.take("]")
            name = name if family else f"{name}[{index.value}]"
        things = self.build_things(name, family, token.at)
        word, argument, at = self.read_member()
        found: list[Condition] = []
        for own_name, thing in things:
            make = functools.partial(self.names.condition, own_name, thing, word, argument)
            found.append(self.build(at or token.at, make))
        if not family:
            return found[0]
        whole = And(*found)
        self.families[id(whole)] = whole
        return whole

    def build_things(self, name: str, family: bool, at: int) -> list[tuple[str, Any]]:
        """Return what a name stands for, each with its own name."""
        try:
            return self.names.family(name) if family else [(name, self.names.find(name))]
        except ConditionSyntaxError as error:
            error.position = at
            raise

    def read_member(self) -> tuple[str, Any, int]:
        """Read what stands behind the point: kind of atom, its argument, position."""
        if self.peek() != "." or self.tokens[self.place + 1].value == "within":
            return "", None, 0
        self.next()
        token = self.next()
        word = token.value
        if token.kind != "name":
            raise self.fault(f"an outcome such as iscompleted was expected, not {token}", token.at)
        if word == "progress":
            self.take(">=")
            fraction = self.literal()
            if self.peek() == "%":
                self.next()
                fraction /= 100
            return "progress", fraction, token.at
        if word in _CALLED:
            given, named = self.literals()
            if len(given) != 1 or named:
                raise self.fault(f"{word}(...) takes one argument", token.at)
            return _CALLED[word], given[0], token.at
        kind = word.removeprefix("is")
        if kind not in _OUTCOMES:
            known = [f"is{kind}" for kind in _OUTCOMES] + ["progress", *_CALLED]
            raise self.fault(
                f"a job has no condition {word!r}.{nearest(word, known) or nearest('is' + word, known)}", token.at
            )
        return kind, None, token.at


def _both(factors: list[Condition]) -> Condition:
    return factors[0] if len(factors) == 1 else And(*factors)


def _gate(frame: _Open) -> Condition:
    if frame.call in ("all", "all_of"):
        return And(*frame.arguments)
    if frame.call in ("any", "any_of"):
        return Or(*frame.arguments)
    if frame.call in ("at_least", "atleast"):
        return AtLeast(frame.threshold, *frame.arguments)
    if frame.call == "since":
        return timing.Since(*frame.arguments)
    return (Never if frame.call == "never" else Settled)(frame.arguments[0])


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: _UNESCAPE.get(found[1], found[1]), text[1:-1], flags=re.DOTALL)


def _hint(token: _Token) -> str:
    if token.mark in ("<", "<=", ">", ">=", "==", "!=", "="):
        return '; to compare, write .improved("x < 1") or .progress >= 0.5'
    return ""
