"""Quantities: `500m`, `2Gi`, `1e3`, as exact numbers and back.

Grammar and canonical form: k8s.io/apimachinery/pkg/api/resource, "Quantity". Values are `Fraction`, so nothing is lost;
integers are taken with the ceiling, as upstream's `Value()` and `MilliValue()` do.
"""

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil

_SUFFIX = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}
_MOST = Fraction(2**63 - 1)  # upstream's quantities go no further either
_PATTERN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?)")
_DECIMAL = (("E", 18), ("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3), ("", 0), ("m", -3), ("u", -6), ("n", -9))
_BINARY = ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki")


@lru_cache(maxsize=4096)
def parse(text: str) -> Fraction:
    """The exact value; raises ValueError in upstream's words."""
    match = _PATTERN.fullmatch(text.strip())
    if not match:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    number, exponent, suffix = match.groups()
    if len(number) > 64 or (exponent and abs(int(exponent)) > 100):
        raise ValueError(f"{text[:40]!r} is out of the range of quantities")
    scale = Fraction(10) ** int(exponent) if exponent else _SUFFIX[suffix or ""]
    return max(-_MOST, min(_MOST, Fraction(number) * scale))


def integer(text: str) -> int:
    """Whole units, rounded up: bytes, counts."""
    return ceil(parse(text))


def milli(text: str) -> int:
    """Thousandths, rounded up: millicores."""
    return ceil(parse(text) * 1000)


def binary(value: int) -> str:
    """Bytes with the largest binary suffix that loses nothing: 8589934592 -> `8Gi`, 1000 -> `1000`."""
    for suffix in _BINARY:
        scale = int(_SUFFIX[suffix])
        if value and value % scale == 0:
            return f"{value // scale}{suffix}"
    return str(value)


def decimal(value: Fraction) -> str:
    """The canonical decimal form: 1/2 -> `500m`, 1000 -> `1k`; below a nano it is rounded up, as upstream does."""
    value = Fraction(ceil(value * 10**9), 10**9)
    for suffix, exponent in _DECIMAL:
        scale = Fraction(10) ** exponent
        if value != 0 and (value / scale).denominator == 1:
            return f"{value / scale}{suffix}"
    return "0"


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """Upstream's canonical spelling of a quantity: `1000m` -> `1`, `1024Mi` -> `1Gi`, `0.5` -> `500m`, `1e3` -> `1e3`."""
    value = parse(text)
    match = _PATTERN.fullmatch(text.strip())
    assert match
    _, exponent, suffix = match.groups()
    if suffix and suffix.endswith("i") and value.denominator == 1 and abs(value) >= 1024:
        return binary(int(value))
    if exponent is not None:
        value = Fraction(ceil(value * 10**9), 10**9)
        for power in (18, 15, 12, 9, 6, 3, 0, -3, -6, -9):
            scaled = value / Fraction(10) ** power
            if value and scaled.denominator == 1:
                return f"{scaled}e{power}" if power else str(scaled)
        return "0"
    return decimal(value)
