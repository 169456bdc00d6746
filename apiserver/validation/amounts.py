"""Quantities as they stand in objects."""

from fractions import Fraction

from kube import quantity


def parsed(amount: object) -> Fraction:
    """The exact value; null is nothing, as in Go."""
    return quantity.parse("0" if amount is None else str(amount))
