"""The tree follows what is made and removed, says whose limits were written, and begins again when the kernel lost count."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from linux import inotify
from metrics import tree
from metrics.tree import Tree

ID = "c" * 64
LIMITS = frozenset({"memory.max"})


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for each in (
        "kubepods/podaaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "system.slice/cron.service",
        f"docker/{ID}/inside",
    ):
        (tmp_path / each).mkdir(parents=True)
    return tmp_path


@pytest.fixture(params=["watched", "unwatched"])
def found(request: pytest.FixtureRequest, top: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tree]:
    if request.param == "unwatched":  # as where fs.inotify.max_user_instances is used up
        monkeypatch.setattr(tree, "_events", lambda: None)
    made = Tree(str(top), "/", LIMITS)
    yield made
    made.close()


def kinds(one: Tree) -> dict[str, str]:
    return {path: place.kind for path, place in one.refresh()[0].items()}


def test_what_names_say(found: Tree) -> None:
    assert kinds(found) == {
        "/": "root",
        "/docker": "service",
        f"/docker/{ID}": "container",
        "/kubepods": "qos",
        "/kubepods/podaaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee": "pod",
        "/system.slice": "service",
        "/system.slice/cron.service": "service",
    }


@pytest.mark.parametrize(
    ("name", "kind", "what"),
    [
        (f"docker-{ID}.scope", "container", ID),
        (f"cri-containerd-{ID}.scope", "container", ID),
        (f"crio-{ID}.scope", "container", ID),
        (f"crio-conmon-{ID}.scope", "service", f"crio-conmon-{ID}.scope"),
        (
            "kubepods-burstable-pod11111111_2222_3333_4444_555555555555.slice",
            "pod",
            "11111111-2222-3333-4444-555555555555",
        ),
        ("kubepods-besteffort.slice", "qos", "kubepods-besteffort.slice"),
        ("kubepods-extra", "service", "kubepods-extra"),
        (ID[:63], "service", ID[:63]),
    ],
)
def test_systemds_names(top: Path, name: str, kind: str, what: str) -> None:
    (top / name).mkdir()
    one = Tree(str(top), "/", LIMITS)
    place = one.refresh()[0][f"/{name}"]
    one.close()
    assert (place.kind, place.id) == (kind, what)


def test_what_comes_and_goes(found: Tree, top: Path) -> None:
    before = kinds(found)
    pod = "kubepods/podaaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
    (top / pod / ID).mkdir()
    (top / "kubepods/burstable/deep/deeper").mkdir(parents=True)
    now = kinds(found)
    assert now.keys() - before.keys() == {
        f"/{pod}/{ID}",
        "/kubepods/burstable",
        "/kubepods/burstable/deep",
        "/kubepods/burstable/deep/deeper",
    }
    assert list(now).index("/kubepods") < list(now).index(f"/{pod}") < list(now).index(f"/{pod}/{ID}")
    os.rmdir(top / pod / ID)
    for each in ("burstable/deep/deeper", "burstable/deep", "burstable"):
        os.rmdir(top / "kubepods" / each)
    assert kinds(found) == before


def test_one_of_the_same_name_is_another(top: Path) -> None:
    one = Tree(str(top), "/", LIMITS)
    first = one.refresh()[0]["/system.slice/cron.service"]
    os.rmdir(top / "system.slice/cron.service")
    (top / "system.slice/cron.service").mkdir()
    second = one.refresh()[0]["/system.slice/cron.service"]
    (top / "system.slice/cron.service/below").mkdir()
    assert first is not second
    assert "/system.slice/cron.service/below" in one.refresh()[0]
    one.close()


def test_nothing_new_is_the_same_answer(top: Path) -> None:
    one = Tree(str(top), "/", LIMITS)
    assert one.refresh()[0] is one.refresh()[0]
    one.close()


def test_whose_limits_were_written(top: Path) -> None:
    one = Tree(str(top), "/", LIMITS)
    path = f"/docker/{ID}"
    for name in ("memory.max", "memory.high"):
        (top / f"docker/{ID}" / name).write_text("1")
    one.refresh()
    end = one.watch_limits(path, (f"{top}{path}",))
    assert end
    (top / f"docker/{ID}/memory.high").write_text("2")
    assert one.refresh()[1] == frozenset()
    (top / f"docker/{ID}/memory.max").write_text("2")
    assert one.refresh()[1] == frozenset({path})
    end()
    (top / f"docker/{ID}/memory.max").write_text("3")
    assert one.refresh()[1] == frozenset()
    assert one.watch_limits("/gone", (f"{top}/gone",)) is None
    one.close()


def test_lost_count_begins_again(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Tree(str(top), "/", LIMITS)
    one.refresh()
    os.rmdir(top / "system.slice/cron.service")
    with monkeypatch.context() as lost:
        lost.setattr(inotify.Polled, "changes", lambda _self: None)
        places, written = one.refresh()
    assert written is None
    assert "/system.slice/cron.service" not in places
    (top / "system.slice/new.service").mkdir()
    assert "/system.slice/new.service" in one.refresh()[0]
    one.close()


def test_a_root_that_is_made_later_and_again(tmp_path: Path) -> None:
    one = Tree(str(tmp_path), "/lab/node1", LIMITS)
    assert list(kinds(one)) == ["/lab/node1"]
    for _ in range(3):
        (tmp_path / "lab/node1/kubepods").mkdir(parents=True)
        assert kinds(one) == {"/lab/node1": "root", "/lab/node1/kubepods": "qos"}
        (tmp_path / "lab/node1/kubepods/burstable").mkdir()
        assert "/lab/node1/kubepods/burstable" in kinds(one)
        shutil.rmtree(tmp_path / "lab")
        assert list(kinds(one)) == ["/lab/node1"]
    one.close()
