"""subnet.env: flannel's five lines, written whole or not at all."""

from ipaddress import IPv4Network
from pathlib import Path

from overlay import subnetenv

TEXT = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


def test_it_says_what_flannels_says() -> None:
    assert subnetenv.render(IPv4Network("10.244.0.0/16"), IPv4Network("10.244.1.0/24"), 1450, masquerade=True) == TEXT


def test_it_is_written_once_into_folders_that_it_makes(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    assert subnetenv.write(path, TEXT)
    written = path.stat()
    assert not subnetenv.write(path, TEXT)
    assert path.stat().st_ino == written.st_ino
    assert path.read_text() == TEXT


def test_a_damaged_file_is_replaced_and_a_half_written_one_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_bytes(b"FLANNEL_\xff")
    path.with_name(".subnet.env.new").write_text("half")
    assert subnetenv.write(path, TEXT)
    assert path.read_text() == TEXT
    assert [one.name for one in tmp_path.iterdir()] == ["subnet.env"]


def test_removal_may_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    subnetenv.write(path, TEXT)
    assert subnetenv.remove(path)
    assert not subnetenv.remove(path)
