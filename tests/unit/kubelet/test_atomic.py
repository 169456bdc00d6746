import contextlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kube.errors import Invalid
from kubelet import atomic
from kubelet.atomic import File


def shown(volume: Path) -> dict[str, bytes]:
    """What a container sees: files that are reached through names that do not begin with two dots."""
    found = {}
    for top, folders, names in os.walk(volume, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith("..")]
        for name in names:
            file = Path(top, name)
            found[str(file.relative_to(volume))] = file.read_bytes()
    return found


def test_the_layout_is_upstreams(tmp_path: Path) -> None:
    assert atomic.write(tmp_path, {"a": File(b"1"), "dir/b": File(b"2", 0o400)})
    assert os.readlink(tmp_path / "a") == "..data/a"
    assert os.readlink(tmp_path / "dir") == "..data/dir"
    assert os.readlink(tmp_path / "..data").startswith("..20")
    assert stat.S_IMODE((tmp_path / "dir/b").stat().st_mode) == 0o400
    assert shown(tmp_path) == {"a": b"1", "dir/b": b"2"}


def test_an_equal_payload_writes_nothing(tmp_path: Path) -> None:
    payload = {"a": File(b"1"), "b/c": File(b"2")}
    atomic.write(tmp_path, payload)
    before = os.readlink(tmp_path / "..data")
    assert not atomic.write(tmp_path, payload)
    assert os.readlink(tmp_path / "..data") == before


def test_a_changed_mode_is_a_change(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"1", 0o644)})
    assert atomic.write(tmp_path, {"a": File(b"1", 0o600)})


def test_an_update_removes_what_is_gone_and_the_old_version(tmp_path: Path) -> None:
    atomic.write(tmp_path, {"a": File(b"1"), "old": File(b"x")})
    held = (tmp_path / "a").open("rb")
    atomic.write(tmp_path, {"a": File(b"2"), "new": File(b"y")})
    assert shown(tmp_path) == {"a": b"2", "new": b"y"}
    assert held.read() == b"1"
    held.close()
    assert len([e for e in os.listdir(tmp_path) if e.startswith("..20")]) == 1


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "..x", "a//b", "a\0b"])
def test_paths_that_leave_the_volume_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(Invalid):
        atomic.write(tmp_path, {path: File(b"")})
    assert os.listdir(tmp_path) == []


class Killed(BaseException):
    pass


def _cut(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The process dies before the nth change it makes to the file system."""
    left = after

    def dying(function: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*args, **kwargs)  # type: ignore[operator]

        return call

    for name in ("rename", "symlink", "unlink"):
        monkeypatch.setattr(atomic.os, name, dying(getattr(os, name)))
    monkeypatch.setattr(Path, "mkdir", dying(Path.mkdir))
    monkeypatch.setattr(Path, "write_bytes", dying(Path.write_bytes))
    monkeypatch.setattr(atomic.shutil, "rmtree", dying(atomic.shutil.rmtree))


@pytest.mark.parametrize("after", range(14))
def test_killed_at_any_change_readers_see_one_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    old = {"a": File(b"old-a"), "b": File(b"old-b"), "gone": File(b"old")}
    new = {"a": File(b"new-a"), "b": File(b"new-b"), "d/fresh": File(b"new")}
    atomic.write(tmp_path, old)
    with monkeypatch.context() as patch:
        _cut(patch, after)
        with contextlib.suppress(Killed):
            atomic.write(tmp_path, new)
    seen = {(tmp_path / name).read_bytes().split(b"-")[0] for name in ("a", "b")}
    assert len(seen) == 1
    atomic.write(tmp_path, new)
    assert shown(tmp_path) == {name: file.data for name, file in new.items()}
    assert len([e for e in os.listdir(tmp_path) if e.startswith("..")]) == 2


names = st.text("abc", min_size=1, max_size=3)
payloads = st.dictionaries(names, st.builds(File, st.binary(max_size=20), st.sampled_from([0o644, 0o400])), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.lists(payloads, max_size=5))
def test_after_any_sequence_the_last_payload_is_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[dict[str, File]]
) -> None:
    volume = tmp_path_factory.mktemp("volume")
    for payload in steps:
        atomic.write(volume, payload)
        assert shown(volume) == {name: file.data for name, file in payload.items()}
