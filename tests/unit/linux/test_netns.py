"""What of namespaces needs no kernel privilege: names, identities and command lines."""

from pathlib import Path

import pytest

from linux import netns


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../etc/passwd", "a\0"])
def test_a_name_that_would_leave_the_directory_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a network namespace"):
        netns.path_of(name)


def test_a_file_is_no_namespace(tmp_path: Path) -> None:
    (tmp_path / "leftover").touch()
    assert not netns.is_namespace(str(tmp_path / "leftover"))
    assert not netns.is_namespace(str(tmp_path / "absent"))
    assert netns.is_namespace(netns.OWN)


def test_the_same_namespace_has_one_identity() -> None:
    assert netns.identity() == netns.identity("/proc/self/ns/net")


def test_a_command_line_for_the_inside() -> None:
    assert netns.argv_in("/run/netns/x", ["ip", "link"]) == ["nsenter", "--net=/run/netns/x", "--", "ip", "link"]


def test_entering_what_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        with netns.enter(str(tmp_path / "absent")):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot enter network namespace"):
        with netns.enter(str(tmp_path / "file")):
            pass
