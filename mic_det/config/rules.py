"""Definition of a config key: its name, its default, its allowed values and its documentation."""

import math
from dataclasses import dataclass
from typing import Any


class Rule:
    """A test of a value, and words for the allowed values, which follow "use" in messages."""

    def __init__(self, test, words):
        self.test, self.words = test, words

    def allows(self, value):
        try:
            return bool(self.test(value))
        except (TypeError, ValueError):  # a value of another type
            return False


def is_number(value):
    """Whether a value is a finite number. True and False are not numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def whole(least, most=None):
    return Rule(
        lambda v: is_number(v) and v == int(v) and v >= least and (most is None or v <= most),
        f"a whole number of at least {least}" + (f" and at most {most}" if most is not None else ""),
    )


def number(least, most=None, *, open_left=False, open_right=False):
    """A number in [least, most]; an open end is excluded."""
    words = f"a number {'above' if open_left else 'of at least'} {least}"
    if most is not None:
        words = f"a number in {'(' if open_left else '['}{least}, {most}{')' if open_right else ']'}"
    return Rule(
        lambda v: is_number(v) and least <= v and (most is None or v <= most)
        and not (open_left and v == least) and not (open_right and v == most),
        words,
    )  # fmt: skip


def one_of(*names):
    return Rule(lambda v: v in names, f"one of {', '.join(map(repr, names))}")


def each(rule, count=None, rising=False):
    """A list of values that a rule allows: ``count`` values, or at least one (count 0: the list may be empty)."""
    how_many = f"{count} values" if count else "a list of values"
    return Rule(
        lambda v: isinstance(v, (list, tuple)) and (len(v) == count if count else len(v) or count == 0)
        and all(map(rule.allows, v)) and not (rising and any(x >= y for x, y in zip(v, v[1:]))),
        f"{how_many}{', each larger than the one before' if rising else ''}, each {rule.words}",
    )  # fmt: skip


def optional(rule):
    return Rule(lambda v: v is None or rule.allows(v), f"null or {rule.words}")


SHARE, SHARE_BELOW_1 = number(0, 1), number(0, 1, open_right=True)
POSITIVE, WEIGHT = number(0, open_left=True), number(0)
COUNT, AT_LEAST_0 = whole(1), whole(0)
ANY_NUMBER = Rule(is_number, "a number")
YES_NO = Rule(lambda v: isinstance(v, bool), "True or False")
TEXT = Rule(lambda v: isinstance(v, str), "a text")
NORMS = one_of("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")


@dataclass(frozen=True)
class Key:
    """A config key of mic_det.

    Attributes:
        name (str): name with dots.
        default: default value; every value has its type.
        check (Rule): allowed values. Checks that depend on other keys are in :mod:`.together`.
        doc (str): what the key does.
        unit (str): unit of the value; "" where it has none.
        source (str): source of the default, and the published value; "" = our own.
    """

    name: str
    default: Any
    check: Rule
    doc: str
    unit: str = ""
    source: str = ""


@dataclass(frozen=True)
class Section:
    """Keys that belong together, and a text about them."""

    title: str
    doc: str
    keys: tuple
