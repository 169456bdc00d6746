"""A bridge port's VLAN as the kernel is told it; the bytes are those that pyroute2 sends for the same, but for the mark of a
nest, which the kernel does not look at here."""

from linux import bridge_vlans
from linux.wire import NESTED

PYROUTE2 = "0700000007000000000000000000000014001a0006000000010000000800020006006400"


def test_an_untagged_vlan_of_a_port() -> None:
    body = bytearray(bridge_vlans._body(7, 100, 6))
    assert int.from_bytes(body[18:20], "little") & NESTED
    body[18:20] = (int.from_bytes(body[18:20], "little") & ~NESTED).to_bytes(2, "little")
    assert body.hex() == PYROUTE2
