"""subnet.env: flannel's lines for one family or two, written whole or not at all, and read back."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from linux.iptables.rules import Family
from overlay import subnetenv
from overlay.model import Range

TEXT = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
BOTH = (
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00:244::/48\n"
    "FLANNEL_IPV6_SUBNET=fd00:244:0:1::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=false\n"
)
NETWORKS: dict[Family, Range] = {Family.V4: IPv4Network("10.244.0.0/16"), Family.V6: IPv6Network("fd00:244::/48")}
FOUR: dict[Family, Range] = {Family.V4: IPv4Network("10.244.1.0/24")}
SUBNETS: dict[Family, Range] = {**FOUR, Family.V6: IPv6Network("fd00:244:0:1::/64")}


def test_it_says_what_flannels_says() -> None:
    assert subnetenv.render(NETWORKS, FOUR, 1450, masquerade=True) == TEXT
    assert subnetenv.render(NETWORKS, SUBNETS, 1430, masquerade=False) == BOTH


def test_it_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    assert subnetenv.read(path) == {}
    subnetenv.write(path, BOTH)
    assert subnetenv.read(path) == SUBNETS


@pytest.mark.parametrize(
    "text", ["", "FLANNEL_SUBNET", "FLANNEL_SUBNET=", "FLANNEL_SUBNET=fd00::1/64", "FLANNEL_SUBNET=10.0.0.1/99"]
)
def test_what_cannot_be_read_is_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(text)
    assert subnetenv.read(path) == {}


def test_it_is_written_into_folders_that_it_makes_for_everybody_to_read(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    assert subnetenv.differs(path, TEXT)
    subnetenv.write(path, TEXT)
    assert not subnetenv.differs(path, TEXT)
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_damaged_file_is_replaced_and_a_half_written_one_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_bytes(b"FLANNEL_\xff")
    path.with_name(".subnet.env.new").write_text("half")
    assert subnetenv.differs(path, TEXT)
    subnetenv.write(path, TEXT)
    assert path.read_text() == TEXT
    assert [one.name for one in tmp_path.iterdir()] == ["subnet.env"]


def test_removal_may_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    subnetenv.write(path, TEXT)
    assert subnetenv.remove(path)
    assert not subnetenv.remove(path)
