"""What a lost connection says of the proxy, and what of the bench itself."""

from __future__ import annotations

import errno
import os

import pytest

from tests.bench._churn import Outcome


@pytest.mark.parametrize(
    ("error", "stalled", "void"),
    [
        (TimeoutError(), 7.0, True),
        (TimeoutError(), 4.0, False),
        (OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)), 7.0, False),
        (OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), 7.0, False),
        (OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH)), 7.0, False),
    ],
)
def test_only_a_timeout_beside_a_stall_says_nothing(error: OSError, stalled: float, void: bool) -> None:
    outcome = Outcome(connections=1, stalled=stalled)
    outcome.lost(error, began=5.0)
    assert (outcome.void, outcome.failures) == ((1, 0) if void else (0, 1))


def test_there_is_a_figure_while_few_say_nothing() -> None:
    assert Outcome(connections=1000, void=10).telling
    assert not Outcome(connections=1000, void=11).telling
    assert not (Outcome(connections=100) + Outcome(connections=100, void=3)).telling
