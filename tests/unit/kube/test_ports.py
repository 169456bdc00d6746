"""Ports as clients write them, and everything that is none."""

import pytest

from kube.ports import port_of


@pytest.mark.parametrize(("text", "port"), [("1", 1), ("80", 80), ("00080", 80), ("65535", 65535)])
def test_ports(text: str, port: int) -> None:
    assert port_of(text) == port


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "000080999", "9" * 5000, "-1", "+80", " 80", "8_0", "\u0668\u0660", "web"]
)
def test_what_is_no_port(text: str) -> None:
    assert port_of(text) is None
