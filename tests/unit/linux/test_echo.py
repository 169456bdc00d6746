"""The internet's checksum."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from linux.echo import checksum


def test_the_example_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF
    assert checksum(b"") == 0xFFFF
    assert checksum(b"\x01") == ~0x0100 & 0xFFFF


@given(st.binary(min_size=2, max_size=60).filter(lambda data: len(data) % 2 == 0))
def test_what_bears_its_checksum_sums_up_to_nothing(data: bytes) -> None:
    assert checksum(data + struct.pack("!H", checksum(data))) == 0
