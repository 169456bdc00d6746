from pathlib import Path

import pytest

from linux import sysctl


def test_a_slash_is_a_dot_within_a_name() -> None:
    assert sysctl.path_of("net.ipv4.conf.eth0/1.forwarding") == Path("/proc/sys/net/ipv4/conf/eth0.1/forwarding")


def test_only_a_difference_is_written(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text("0\n")
    assert sysctl.ensure("a.b", "1", tmp_path)
    assert not sysctl.ensure("a.b", "1", tmp_path)
    assert sysctl.read("a.b", tmp_path) == "1"


def test_a_parameter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        sysctl.ensure("no.nothing", "1", tmp_path)
