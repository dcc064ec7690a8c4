"""Whether two written answers are the same mathematics: numbers, fractions, roots, expressions, lists, with or without a unit. Nothing is evaluated
as code, nothing is simplified.

An expression is read by a small grammar and its value computed with exact fractions, at three points where it has variables (two polynomials of low
degree that agree at points drawn from large primes are the same but for a chance of about one in a billion; Schwartz 1980, Zippel 1979). The points
follow from both texts, so that no answer can be written for them. Powers and lengths are bounded: what is too large is compared as words.

What counts as the same: 1/2, 0.5, \\frac{1}{2} and 50/100; 1,200 and 1200; 2\\sqrt{3} and \\sqrt{12}; (x+1)^2 and x^2+2x+1; (1, 2) in its order,
{1, 2} in any; 18 and 18 dollars, where only one has a unit; x = 3 and 3. What does not: a rounded number and the exact one, 50% and 0.5 (a percent
sign is a unit), two different units, digits that are not ASCII, several answers where one is asked for.
"""

from __future__ import annotations

import cmath
import hashlib
import math
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import permutations

Number = Fraction | complex

LONGEST = 300
"""Characters of an answer that is read as mathematics."""
_BITS = 4096
"""Size of the largest number that is computed exactly."""
_PRIMES = (1_000_000_007, 998_244_353, 1_000_003)
_DROP = re.compile(r"\\(?:left|right|big|Big|displaystyle|,|!|;|:| )|\$|~")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf|operatorname|mbox)\s*\{([^{}]*)\}")
_PLAIN = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cdot": "*", "\\times": "*", "\\div": "/", "\\%": "%", "\\pi": " pi ", "\\{": "{", "\\}": "}",
    "\\infty": " infinity ", "^\\circ": " degrees", "^{\\circ}": " degrees", "°": " degrees", "\u2212": "-", "\u00d7": "*", "\u00f7": "/",
    "π": " pi ", "√": "\\sqrt", "**": "^", "\\lbrace": "{", "\\rbrace": "}", "\\le": "<=", "\\ge": ">=",
}  # fmt: skip
_TOKEN = re.compile(r"(?P<number>(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)|(?P<name>\\?[A-Za-z]+)|(?P<sign>[-+*/^(){}\[\]!|])", re.ASCII)
_UNIT = re.compile(r"(?<=[\d)}])\s*(%|[A-Za-z]{2,}(?:[ /][A-Za-z]{2,}){0,2}\.?(?:\^\{?[23]\}?)?)$", re.ASCII)
_SHORT = set("cm mm km kg mg ml ft in hr lb oz mi yd sq".split())
"""Units of two letters; other pairs are products of variables."""
_CURRENCY = re.compile(r"^\s*(?:\\?\$|€|£|USD|EUR)\s*(?=[-\d.])")
_NOT_UNITS = {"and", "not", "nor", "sqrt", "frac", "sin", "cos", "tan", "log", "exp", "but", "maybe", "infinity"}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin, "cos": cmath.cos, "tan": cmath.tan, "ln": cmath.log, "log": cmath.log10, "exp": cmath.exp,
}  # fmt: skip


class _Unreadable(Exception):
    """Not an expression of this grammar, or too large."""


def same(found: str, expected: str, *, tolerance: float = 0.0) -> bool:
    """Whether an answer says what is expected.

    Args:
        tolerance: relative difference of numbers that is let pass; 0 asks for the exact value.
    """
    a, b = _cleaned(found), _cleaned(expected)
    if not a or not b:
        return False
    if _words(a) == _words(b) and any(c.isalnum() for c in a):
        return True
    names = [match[1] for text in (a, b) if (match := re.match(r"([A-Za-z]) ?=(?!=)", text))]
    if max(len(a), len(b)) > LONGEST or len(set(names)) > 1:
        return False
    a, b = (re.sub(r"^[A-Za-z] ?=(?!=)", "", text) for text in (a, b))
    seed = hashlib.sha256(f"{a}\0{b}".encode()).digest()
    return _alike(a, b, tolerance, lambda name, point: _point(seed, name, point))


def _cleaned(text: str) -> str:
    """One spelling: LaTeX that only sets type is dropped, signs have one form."""
    text = _CURRENCY.sub("", text.strip())
    text = _DROP.sub("", _TEXT.sub(r" \1 ", text))
    for written, plain in _PLAIN.items():
        text = text.replace(written, plain)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text, flags=re.ASCII)
    text = re.sub(r"\\sqrt\s*(\d+|[a-z]\b)", r"\\sqrt{\1}", text, flags=re.ASCII)
    return " ".join(text.split()).rstrip(".,;").strip()


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+|[^\w\s]", text.casefold())


def _point(seed: bytes, name: str, point: int) -> Fraction:
    """The value of a variable at a point."""
    drawn = hashlib.sha256(seed + f"{name}{point}".encode()).digest()
    return Fraction(int.from_bytes(drawn[:8], "big") % _PRIMES[0] + 1, int.from_bytes(drawn[8:16], "big") % _PRIMES[point] + 1)


def _alike(a: str, b: str, tolerance: float, at: Callable[[str, int], Fraction]) -> bool:
    shapes = [_listed(text) for text in (a, b)]
    if shapes[0] and shapes[1]:
        (kind, ours), (other, theirs) = shapes[0], shapes[1]
        if len(ours) != len(theirs) or (kind != other and {kind, other} != {"{}", ""}) or len(ours) > 5:
            return False
        orders = permutations(ours) if kind in ("{}", "") else [tuple(ours)]
        return any(all(_alike(x, y, tolerance, at) for x, y in zip(order, theirs, strict=True)) for order in orders)
    if shapes[0] or shapes[1]:
        return False
    (a, unit), (b, other) = _unit(a), _unit(b)
    if unit and other and unit.rstrip("s") != other.rstrip("s"):
        return False
    if not all(re.search(r"\d|pi\b|[-+*/^\\]|[a-z]\(|^\W*[A-Za-z]\W*$", text, re.ASCII) for text in (a, b)):
        return False
    try:
        points = [[_Reader(text, lambda name, p=p: at(name, p)).value() for text in (a, b)] for p in range(3)]
        return all(_close(x, y, tolerance) for x, y in points)
    except (_Unreadable, ArithmeticError, ValueError, RecursionError):
        return False


def _listed(text: str) -> tuple[str, list[str]] | None:
    """(the brackets, the elements) of a list, tuple, interval or set; None for anything else."""
    inner, brackets = text, ""
    if len(text) > 1 and text[0] in "([{" and text[-1] in ")]}":
        inner, brackets = text[1:-1], text[0] + text[-1]
    parts, depth, start = [], 0, 0
    for i, c in enumerate(inner):
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:  # the first bracket closes before the end: (1)(2)
            return None
        if c == "," and depth == 0 and not _thousands(inner, i):
            parts.append(inner[start:i].strip())
            start = i + 1
    parts.append(inner[start:].strip())
    if len(parts) == 1 and brackets != "{}":
        return None
    return brackets, parts


def _thousands(text: str, i: int) -> bool:
    """Whether the comma at i stands in a number: 1,200."""
    return (
        re.match(r"\d{3}(?!\d)", text[i + 1 :], re.ASCII) is not None and re.search(r"(?<![\d,])\d{1,3}(?:,\d{3})*$", text[:i], re.ASCII) is not None
    )


def _unit(text: str) -> tuple[str, str]:
    """(the text without its unit, the unit), which follows a number or a bracket."""
    match = _UNIT.search(text)
    words = [word.casefold() for word in re.findall("[A-Za-z]+", match[1])] if match else []
    if match is None or any(word in _NOT_UNITS or (len(word) == 2 and word not in _SHORT) for word in words):
        return text, ""
    return text[: match.start()].strip(), match[1].casefold().rstrip(".")


def _close(a: Number, b: Number, tolerance: float) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction) and not tolerance:
        return a == b
    x, y = complex(a), complex(b)
    if not (cmath.isfinite(x) and cmath.isfinite(y)):
        return False
    # Of a root against a written-out decimal only rounding of the last places is forgiven.
    exact = isinstance(a, Fraction) or isinstance(b, Fraction)
    return abs(x - y) <= max(tolerance, 1e-14 if exact else 1e-9) * max(abs(x), abs(y))


class _Reader:
    """Reads an expression and computes its value as it goes: sum, product (also by standing side by side), power, and what binds tighter."""

    def __init__(self, text: str, variable: Callable[[str], Fraction]) -> None:
        self.tokens, self.place, self.variable = [], 0, variable
        at = 0
        mixed = re.fullmatch(r"([-+]?\d+) (\d+) ?/ ?(\d+)", text, re.ASCII)
        text = f"{mixed[1]}\\frac{{{mixed[2]}}}{{{mixed[3]}}}" if mixed else text
        while at < len(text):
            if text[at].isspace():
                at += 1
                continue
            match = _TOKEN.match(text, at)
            if match is None:
                raise _Unreadable(text)
            self.tokens.append((str(match.lastgroup), match.group()))
            at = match.end()

    def value(self) -> Number:
        """Of the whole text."""
        found = self.sum()
        if self.place < len(self.tokens):
            raise _Unreadable(self.tokens[self.place])
        return found

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("", "")

    def take(self, *signs: str) -> str:
        """The next token if it is one of these, else nothing."""
        kind, text = self.peek()
        if kind == "sign" and text in signs:
            self.place += 1
            return text
        return ""

    def sum(self) -> Number:
        found = self.product()
        while sign := self.take("+", "-"):
            right = self.product()
            found = _sized(found + right if sign == "+" else found - right)
        return found

    def product(self) -> Number:
        found = self.signed()
        while True:
            if sign := self.take("*", "/"):
                right = self.signed()
                found = _sized(found * right if sign == "*" else found / right)
            elif self.peek()[0] == "name" or self.peek()[1] in ("(", "{"):
                found = _sized(found * self.power())
            else:
                return found

    def signed(self) -> Number:
        if sign := self.take("+", "-"):
            found = self.signed()
            return -found if sign == "-" else found
        return self.power()

    def power(self) -> Number:
        found = self.atom()
        if self.take("!"):
            if not isinstance(found, Fraction) or found.denominator != 1 or not 0 <= found <= 200:
                raise _Unreadable("!")
            found = Fraction(math.factorial(int(found)))
        return _power(found, self.signed()) if self.take("^") else found

    def atom(self) -> Number:
        kind, text = self.peek()
        self.place += 1
        if kind == "number":
            found = Fraction(text.replace(",", ""))
            if found.denominator == 1 and self.peek() == ("name", "\\frac"):  # a mixed number
                part = self.atom()
                if not isinstance(part, Fraction) or not 0 < part < 1:
                    raise _Unreadable(text)
                return found + part
            return found
        if text in ("(", "{", "["):
            return self.closed({"(": ")", "{": "}", "[": "]"}[text])
        if text == "|":
            found = self.closed("|")
            return abs(found) if isinstance(found, Fraction) else complex(abs(found))
        if kind == "name":
            return self.named(text.removeprefix("\\"))
        raise _Unreadable(text)

    def closed(self, sign: str) -> Number:
        found = self.sum()
        if not self.take(sign):
            raise _Unreadable(sign)
        return found

    def named(self, name: str) -> Number:
        if name == "frac":
            top, bottom = self.atom(), self.atom()
            return _sized(top / bottom)
        if name == "sqrt":
            degree: Number = self.closed("]") if self.take("[") else Fraction(2)
            return _power(self.atom(), Fraction(1) / degree)
        if name == "pi":
            return complex(math.pi)
        if name in _FUNCTIONS:
            return _FUNCTIONS[name](complex(self.power()))
        found = Fraction(1)
        if len(name) > 2:
            raise _Unreadable(name)
        for letter in name:
            found *= self.variable(letter)
        # In xy^2 the power is of y alone.
        if len(name) == 2 and self.take("^"):
            return self.variable(name[0]) * _power(self.variable(name[1]), self.signed())
        return found


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            size = max(base.numerator.bit_length(), base.denominator.bit_length())
            if size * abs(exponent) > _BITS:
                raise _Unreadable("a power too large")
            return base ** int(exponent)
        if base > 0 and exponent.denominator <= 8 and abs(exponent.numerator) <= 8:
            roots = [_root(part, exponent.denominator) for part in (base.numerator, base.denominator)]
            if None not in roots:
                return Fraction(*roots) ** exponent.numerator  # type: ignore[arg-type]
    return complex(base) ** complex(exponent)


def _root(number: int, degree: int) -> int | None:
    """The whole root of a number, where it has one."""
    near = round(number ** (1 / degree)) if number.bit_length() < 1000 else 0
    return next((r for r in (near - 1, near, near + 1) if r >= 0 and r**degree == number), None)


def _sized(number: Number) -> Number:
    if isinstance(number, Fraction) and max(number.numerator.bit_length(), number.denominator.bit_length()) > _BITS:
        raise _Unreadable("a number too large")
    return number
