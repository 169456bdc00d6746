"""WireGuard's private key: made once, for root's eyes, and kept."""

from pathlib import Path

import pytest

from kube.errors import Retry
from linux import wireguard
from overlay import keys


def test_a_fresh_key_is_kept_for_root_alone(tmp_path: Path) -> None:
    file = tmp_path / "flannel" / "wgkey"
    key = keys.private(file)
    assert wireguard.public_key(key)
    assert keys.private(file) == key
    assert file.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in file.parent.iterdir()] == ["wgkey"]


def test_a_key_that_others_may_read_is_shut(tmp_path: Path) -> None:
    file = tmp_path / "wgkey"
    file.write_text(wireguard.fresh_key())
    file.chmod(0o644)
    keys.private(file)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "nonsense", "AAAA"])
def test_what_is_no_key_is_named_and_left(tmp_path: Path, text: str) -> None:
    file = tmp_path / "wgkey"
    file.write_text(text)
    with pytest.raises(Retry, match=r"holds no WireGuard key .*delete it"):
        keys.private(file)
    assert file.read_text() == text


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WIREGUARD_KEY_FILE", raising=False)
    assert keys.file("/run/flannel/subnet.env") == Path(keys.DEFAULT)
    assert keys.file("/lab/node1/run/subnet.env") == Path("/lab/node1/run/wgkey"), "a lab's nodes share /run"
    monkeypatch.setenv("WIREGUARD_KEY_FILE", "/etc/wg")
    assert keys.file("/run/flannel/subnet.env") == Path("/etc/wg")
