"""What a rate and a burst come to in the kernel's own numbers."""

import pytest

from linux.traffic import Bucket, bucket

SECONDS = 0xFFFFFFFF * 64 / 1e9  # the longest burst that the kernel can count: 274


@pytest.mark.parametrize(
    ("rate", "burst", "limit", "ticks"),
    [
        # Of the reference plugin 1.1.1, as `tc -j -s qdisc` and CHECK show them.
        (2_500_000, 250_000, 312_500, 1_562_500),
        (1_250_000, 125_000, 156_250, 1_562_500),
        (5_000_000_000, 100_000_000, 225_000_000, 312_500),
    ],
)
def test_the_numbers_are_the_references(rate: int, burst: int, limit: int, ticks: int) -> None:
    assert bucket(rate, burst) == Bucket(rate, limit, ticks)


def test_a_burst_ends_where_the_kernel_can_count_no_further() -> None:
    """A runtime's default burst, 2^31 bits, at a megabit a second is worth 36 minutes."""
    made = bucket(125_000, (2**31 - 1) // 8)
    assert made.buffer >= 0xFFFFFFFF - 16
    assert made.limit == pytest.approx(125_000 * (SECONDS + 0.025), rel=0.001)
    assert made.limit < bucket(125_000, 125_000 * 274).limit * 1.01
