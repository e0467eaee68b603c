"""Restricted expressions over the values that a job reports: ``"chisq < 2 and npar <= 5"``.

The text is read by Python's own parser, checked against a short list of what is allowed, and turned into closures;
nothing is ever handed to ``eval``. Allowed are numbers, texts, names of reported values, comparisons (chained too),
and/or/not, arithmetic, and the functions in ``FUNCTIONS``. What could cost much time or memory cannot be said: no
loops, no texts in arithmetic, powers computed in floating point as soon as they grow.

It looks at values only; which message brings them is the business of ``atoms``. Rule: a name that is missing or a value
of a wrong type makes the expression false, never an error: a message of another kind simply does not satisfy it.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trun.errors import ConditionSyntaxError, nearest

if TYPE_CHECKING:
    import ast

#: Longest text, deepest nesting.
MAX_LENGTH = 500
MAX_DEPTH = 60
#: Whole numbers beyond so many bits are continued in floating point.
MAX_BITS = 4096

_Values = Mapping[str, Any]
_Closure = Callable[[_Values], Any]

#: What can go wrong with values of other types, sizes or names than expected.
_FAULTS = (TypeError, ValueError, ArithmeticError, LookupError, RecursionError, AttributeError)


def _number(value: Any) -> Any:
    """Let only real numbers into arithmetic: a text times a number could fill the memory."""
    if isinstance(value, (int, float)):
        return value
    if hasattr(value, "__float__") and not isinstance(value, str):
        return float(value)
    raise TypeError


def _power(base: Any, exponent: Any) -> Any:
    small = isinstance(base, int) and isinstance(exponent, int) and 0 <= exponent <= MAX_BITS
    if small and base.bit_length() * exponent <= MAX_BITS:
        return base**exponent
    found = float(base) ** float(exponent)
    if isinstance(found, complex):
        raise ValueError
    return found


def _product(one: Any, other: Any) -> Any:
    found = one * other
    if isinstance(found, int) and found.bit_length() > MAX_BITS:
        raise OverflowError
    return found


def _round(value: Any, digits: Any = 0) -> float:
    if not -300 <= digits <= 300:
        raise ValueError
    return round(float(value), int(digits))


#: Functions that an expression may call, with how many arguments they take.
FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 1, 1),
    "min": (min, 1, 50),
    "max": (max, 1, 50),
    "sum": (sum, 1, 1),
    "len": (len, 1, 1),
    "round": (_round, 1, 2),
    "sqrt": (math.sqrt, 1, 1),
    "exp": (math.exp, 1, 1),
    "log": (math.log, 1, 2),
    "log10": (math.log10, 1, 1),
    "log2": (math.log2, 1, 1),
    "sin": (math.sin, 1, 1),
    "cos": (math.cos, 1, 1),
    "tan": (math.tan, 1, 1),
    "asin": (math.asin, 1, 1),
    "acos": (math.acos, 1, 1),
    "atan": (math.atan, 1, 1),
    "atan2": (math.atan2, 2, 2),
    "sinh": (math.sinh, 1, 1),
    "cosh": (math.cosh, 1, 1),
    "tanh": (math.tanh, 1, 1),
    "hypot": (math.hypot, 1, 50),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "isfinite": (math.isfinite, 1, 1),
    "isnan": (math.isnan, 1, 1),
    "isinf": (math.isinf, 1, 1),
}
_YES_OR_NO = frozenset({"isfinite", "isnan", "isinf"})

#: Names that mean these numbers unless the job reports a value of that name.
CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": _product,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "Pow": _power,
}
_COMPARISON: dict[str, Callable[[Any, Any], Any]] = {
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "Eq": operator.eq,
    "NotEq": operator.ne,
}


class Predicate:
    """A yes-or-no expression over named values."""

    __slots__ = ("_test", "names", "text")

    def __init__(self, text: str, names: frozenset[str], test: _Closure) -> None:
        #: The expression as it was written, without blanks around it.
        self.text = text
        #: Names of the values that it looks at.
        self.names = names
        self._test = test

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the values satisfy the expression; missing names and wrong types do not."""
        try:
            return bool(self._test(values))
        except _FAULTS:
            return False

    def __repr__(self) -> str:
        return f"Predicate({self.text!r})"


def compile_predicate(text: Any) -> Predicate:
    """Return the predicate of an expression such as ``"chisq < 2"``.

    Raises
    ------
    ConditionSyntaxError
        The text is too long or too deep, no expression, or says something that is not allowed; ``position`` is the
        place in the text, from 0.
    """
    if not isinstance(text, str):
        raise ConditionSyntaxError(f'an expression over results is a text such as "chisq < 2", not {text!r:.80}.')
    return _compile(text)


@functools.lru_cache(maxsize=512)
def _compile(text: str) -> Predicate:
    return _Compiler(text).predicate()


class _Compiler:
    """Turns one text into closures."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()
        self.start = len(text) - len(text.lstrip()) if text.strip() else 0
        self.line = text.strip().replace("\n", " ").replace("\r", " ").replace("\t", " ").replace("\f", " ")

    def predicate(self) -> Predicate:
        """Return what the text says."""
        if len(self.text) > MAX_LENGTH:
            raise self.fault(f"an expression has at most {MAX_LENGTH} characters, this one has {len(self.text)}")
        if not self.line:
            raise self.fault('an expression such as "chisq < 2" was expected, but the text is empty')
        if "\\" in self.line or "\0" in self.line:
            raise self.fault("a backslash has no place in an expression", at=self.line.find("\\"))
        tree = self.parse()
        self.check_depth(tree)
        test = self.truth(tree)
        return Predicate(self.text.strip(), frozenset(self.names), test)

    def parse(self) -> ast.expr:
        """Return the syntax tree."""
        import ast

        try:
            return ast.parse(self.line, mode="eval").body
        except SyntaxError as error:
            at = (error.offset or 1) - 1 if error.offset else len(self.line)
            single = re.search(r"(?<![=<>!:])=(?!=)", self.line)
            hint = "; to compare, write ==" if single else ""
            raise self.fault(f"{error.msg}{hint}", at=at) from None
        except (ValueError, MemoryError, RecursionError) as error:
            raise self.fault(f"it cannot be read ({error or type(error).__name__})") from None

    def check_depth(self, tree: ast.expr) -> None:
        """Refuse nesting that could exhaust the stack."""
        import ast

        stack: list[tuple[ast.AST, int]] = [(tree, 1)]
        while stack:
            node, depth = stack.pop()
            if depth > MAX_DEPTH:
                raise self.fault(f"it may be nested {MAX_DEPTH} deep at most", node)
            stack.extend((child, depth + 1) for child in ast.iter_child_nodes(node))

    def fault(self, what: str, node: ast.AST | None = None, at: int = 0) -> ConditionSyntaxError:
        """Return the error that says what is wrong where."""
        if node is not None:
            at = len(self.line.encode()[: getattr(node, "col_offset", 0)].decode(errors="replace"))
        at = max(0, at) + self.start
        end = "" if what.endswith("?") else "."
        return ConditionSyntaxError(
            f"in the expression {self.text!r:.120}, character {at + 1}: {what}{end}", position=at
        )

    # -- yes or no

    def truth(self, node: ast.expr) -> _Closure:
        """Return a closure whose value is yes or no."""
        kind = type(node).__name__
        found: Any = node
        if kind == "Compare":
            return self.comparison(found)
        if kind == "BoolOp":
            parts = [self.truth(part) for part in found.values]
            return _every(parts) if type(found.op).__name__ == "And" else _some(parts)
        if kind == "UnaryOp" and type(found.op).__name__ == "Not":
            inner = self.truth(found.operand)
            return lambda values: not inner(values)
        if kind == "Constant" and isinstance(found.value, bool):
            constant = found.value
            return lambda values: constant
        if kind == "Name":
            return _as_truth(self.value(node))
        if kind == "Call" and getattr(found.func, "id", "") in _YES_OR_NO:
            return self.value(node)
        self.value(node)
        raise self.fault('a comparison such as "chisq < 2" was expected; this is a value, not yes or no', node)

    def comparison(self, node: Any) -> _Closure:
        """Return the closure of ``a < b`` or ``a < b <= c``."""
        for op in node.ops:
            if type(op).__name__ not in _COMPARISON:
                raise self.fault("only < <= > >= == != compare here", node)
        ops = [_COMPARISON[type(op).__name__] for op in node.ops]
        sides = [self.value(side) for side in (node.left, *node.comparators)]
        if len(ops) > 1:
            return _chain(sides, ops)
        op, left, right = ops[0], sides[0], sides[1]
        limit = self.constant(node.comparators[0])
        if type(node.left).__name__ == "Name" and node.left.id not in CONSTANTS and limit is not None:
            name = node.left.id
            return lambda values: op(values[name], limit)
        return lambda values: op(left(values), right(values))

    def constant(self, node: Any) -> Any:
        """Return the number or text of a literal, None for anything else."""
        if type(node).__name__ == "UnaryOp" and type(node.op).__name__ == "USub":
            number = self.constant(node.operand)
            return -number if isinstance(number, (int, float)) else None
        return node.value if type(node).__name__ == "Constant" else None

    # -- values

    def value(self, node: ast.expr) -> _Closure:
        """Return a closure whose value is a number, a text or whatever the job reported."""
        kind = type(node).__name__
        found: Any = node
        if kind == "Name":
            return self.name(found)
        if kind == "Constant":
            constant = found.value
            if isinstance(constant, (int, float, str)):
                return lambda values: constant
            raise self.fault(f"{constant!r:.40} has no place in an expression: numbers, texts and names do", node)
        if kind == "BinOp" and type(found.op).__name__ in _ARITHMETIC:
            op = _ARITHMETIC[type(found.op).__name__]
            left, right = self.value(found.left), self.value(found.right)
            return lambda values: op(_number(left(values)), _number(right(values)))
        if kind == "UnaryOp" and type(found.op).__name__ in ("USub", "UAdd"):
            inner = self.value(found.operand)
            sign = -1 if type(found.op).__name__ == "USub" else 1
            return lambda values: sign * _number(inner(values))
        if kind == "Call":
            return self.call(found)
        if kind in ("Compare", "BoolOp") or (kind == "UnaryOp" and type(found.op).__name__ == "Not"):
            return self.truth(node)
        raise self.fault(_REFUSED.get(kind, "this has no place in an expression") + _ALLOWED, node)

    def name(self, node: Any) -> _Closure:
        """Return the closure of a name."""
        name: str = node.id
        if name in FUNCTIONS:
            raise self.fault(f"{name} is a function; write {name}(...)", node)
        if name in CONSTANTS:
            constant = CONSTANTS[name]
            return lambda values: values.get(name, constant)
        self.names.add(name)
        return lambda values: values[name]

    def call(self, node: Any) -> _Closure:
        """Return the closure of a function call."""
        name = getattr(node.func, "id", None)
        if name is None:
            raise self.fault("only functions by name are called here" + _ALLOWED, node)
        if name not in FUNCTIONS:
            hint = nearest(name[:40], FUNCTIONS)
            raise self.fault(f"there is no function {name!r:.40}{'.' + hint if hint else ''}", node)
        if node.keywords or any(type(argument).__name__ == "Starred" for argument in node.args):
            raise self.fault(f"{name}(...) takes plain arguments only", node)
        function, least, most = FUNCTIONS[name]
        if not least <= len(node.args) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise self.fault(f"{name}(...) takes {wanted} arguments, not {len(node.args)}", node)
        arguments = [self.value(argument) for argument in node.args]
        if len(arguments) == 1:
            only = arguments[0]
            return lambda values: function(only(values))
        return lambda values: function(*[argument(values) for argument in arguments])


_ALLOWED = "; numbers, texts, names, comparisons, and/or/not, + - * / // % ** and functions such as sqrt(x) do"
_REFUSED = {
    "Attribute": "attributes (x.y) have no place in an expression",
    "Subscript": "indexing (x[y]) has no place in an expression",
    "Lambda": "lambda has no place in an expression",
    "IfExp": "if-else has no place in an expression",
    "NamedExpr": "an assignment has no place in an expression",
    "BinOp": "this operator has no place in an expression (and, or combine; ** is the power)",
    "UnaryOp": "this operator has no place in an expression (not negates)",
    "JoinedStr": "an f-string has no place in an expression",
}


def _as_truth(value: _Closure) -> _Closure:
    """Take a reported value as yes or no: a truth value or a number, but no text and no NaN."""

    def test(values: _Values) -> bool:
        found = _number(value(values))
        return bool(found) and found == found  # NaN is not equal to itself

    return test


def _every(parts: list[_Closure]) -> _Closure:
    """And: a part that is false decides, wherever it stands; else a part that cannot be told does."""

    def test(values: _Values) -> bool:
        fault: Exception | None = None
        for part in parts:
            try:
                if not part(values):
                    return False
            except _FAULTS as error:
                fault = error
        if fault is not None:
            raise fault
        return True

    return test


def _some(parts: list[_Closure]) -> _Closure:
    """Or: a part that is true decides, wherever it stands; else a part that cannot be told does."""

    def test(values: _Values) -> bool:
        fault: Exception | None = None
        for part in parts:
            try:
                if part(values):
                    return True
            except _FAULTS as error:
                fault = error
        if fault is not None:
            raise fault
        return False

    return test


def _chain(sides: list[_Closure], ops: list[Callable[[Any, Any], Any]]) -> _Closure:
    def test(values: _Values) -> bool:
        left = sides[0](values)
        for op, side in zip(ops, sides[1:], strict=True):
            right = side(values)
            if not op(left, right):
                return False
            left = right
        return True

    return test
