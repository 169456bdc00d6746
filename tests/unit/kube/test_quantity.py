"""Quantities are exact, round up and canonicalise as upstream's."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("1", 1),
        ("500m", Fraction(1, 2)),
        ("2Gi", 2**31),
        ("1e3", 1000),
        ("1E", 10**18),
        (".5", Fraction(1, 2)),
        ("100n", Fraction(1, 10**7)),
    ],
)
def test_parse(text: str, value: Fraction) -> None:
    assert quantity.parse(text) == value


@pytest.mark.parametrize("text", ["", "1 Gi", "Gi", "1KiB", "--1", "1e", "abc"])
def test_refuses_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        quantity.parse(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("0.5", "500m"),
        ("1500m", "1500m"),
        ("0", "0"),
        ("1e3", "1e3"),
        ("10000k", "10M"),
        ("100Mi", "100Mi"),
    ],
)
def test_canonical(text: str, canonical: str) -> None:
    assert quantity.canonical(text) == canonical


def test_refuses_numbers_that_would_fill_the_memory() -> None:
    with pytest.raises(ValueError, match="out of the range"):
        quantity.parse("1e999999999")


def test_rounding_is_up() -> None:
    assert quantity.integer("1500m") == 2
    assert quantity.milli("100u") == 1


@given(st.integers(0, 10**15), st.sampled_from(["", "m", "k", "M", "Ki", "Mi", "Gi"]))
def test_canonical_keeps_the_value(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    assert quantity.parse(quantity.canonical(text)) == quantity.parse(text)


def test_quantities_go_no_further_than_upstreams() -> None:
    assert quantity.integer("8Ei") == quantity.integer("1e100") == 2**63 - 1
    assert quantity.integer("-9999999E") == -(2**63 - 1)
