"""What the API last said, on disk and back."""

import asyncio
import contextlib
import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kube.core import Service, ServicePort, ServiceSpec
from kube.informer import Informer
from kube.meta import Condition, ObjectMeta
from kube.pods import Container, Pod, PodSpec, PodStatus
from kube.resources import RUNTIMECLASSES, SERVICES
from kube.runtimeclass import RuntimeClass
from kubelet.observe import checkpoint
from kubelet.observe.checkpoint import Checkpoint
from kubelet.observe.wanted import PODS_WHOLE

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Kept:
    """A root directory, and the two informers of one kubelet after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.begin()

    def begin(self) -> None:
        nobody: Any = None  # nothing is asked of the client here
        self.pods: Informer[Pod] = Informer(nobody, PODS_WHOLE)
        self.services = Informer(nobody, SERVICES)
        self.classes = Informer(nobody, RUNTIMECLASSES)
        self.checkpoint = Checkpoint(str(self.root), "n", self.pods, self.services, self.classes)
        self.checkpoint.recall()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.pods.synced.set()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self.checkpoint.run())
            await asyncio.sleep(0)  # it has begun
            yield
            task.cancel()

    @property
    def files(self) -> dict[str, str]:
        found = {}
        for path in self.root.glob("seen/pods/*.json"):
            with contextlib.suppress(FileNotFoundError):  # removed between the two looks
                found[path.name] = path.read_text()
        return found


def pod(name: str, phase: str = "Running") -> Pod:
    ready = Condition(type="Ready", status="True", last_transition_time=MOMENT)
    return Pod(
        metadata=ObjectMeta(name=name, namespace="default", uid=f"uid-{name}", resource_version="7"),
        spec=PodSpec(containers=(Container(name="a", image="x"),), node_name="n"),
        status=PodStatus(phase=phase, conditions=(ready,), start_time=MOMENT),
    )


def service(name: str) -> Service:
    meta = ObjectMeta(name=name, namespace="default", resource_version="9", labels={"big": "x" * 100})
    return Service(metadata=meta, spec=ServiceSpec(cluster_ip="10.96.0.1", ports=(ServicePort(port=443),)))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "CALM", 0.0)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_was_said_comes_back_with_its_status(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    async with kept.running():
        for name in ("a", "b"):
            kept.pods._replace(f"default/{name}", pod(name))
        kept.services._replace("default/kubernetes", service("kubernetes"))
        kept.classes._replace("fast", RuntimeClass(metadata=ObjectMeta(name="fast"), handler="crun"))
        lists = {"services.json", "runtimeclasses.json"}
        await until(lambda: len(kept.files) == 2 and lists <= set(os.listdir(tmp_path / "seen")))
    assert sorted(kept.files) == ["uid-a.json", "uid-b.json"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("seen/pods/*")} == {0o600}
    assert (tmp_path / "seen").stat().st_mode & 0o777 == 0o700
    kept.begin()
    assert [(p.metadata.name, p.status.phase, p.status.start_time) for p in kept.pods.items()] == [
        ("a", "Running", MOMENT),
        ("b", "Running", MOMENT),
    ]
    assert not kept.pods.synced.is_set()
    (found,) = kept.services.items()
    assert found.spec.cluster_ip == "10.96.0.1"
    assert found.metadata.labels == {}, "only what variables are made of"
    assert [(each.metadata.name, each.handler) for each in kept.classes.items()] == [("fast", "crun")]


async def test_only_what_changed_is_written_and_what_is_gone_is_removed(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    async with kept.running():
        for name in ("a", "b"):
            kept.pods._replace(f"default/{name}", pod(name))
        await until(lambda: len(kept.files) == 2)
        path = tmp_path / "seen/pods/uid-a.json"
        before = path.stat().st_ino
        kept.pods._replace("default/a", pod("a"))  # the same words again
        kept.pods._replace("default/b", pod("b", "Failed"))
        await until(lambda: "Failed" in kept.files["uid-b.json"])
        assert path.stat().st_ino == before
        kept.pods._replace("default/a", None)
        await until(lambda: list(kept.files) == ["uid-b.json"])


async def test_pods_of_which_the_api_knows_nothing_any_more_are_removed(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    async with kept.running():
        kept.pods._replace("default/a", pod("a"))
        await until(lambda: kept.files)
    kept.begin()
    kept.pods._replace("default/a", None)  # its first list
    async with kept.running():
        await until(lambda: not kept.files)


async def test_a_spoilt_file_is_passed_over(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    async with kept.running():
        kept.pods._replace("default/a", pod("a"))
        await until(lambda: kept.files)
    (tmp_path / "seen/pods/uid-z.json").write_text("{")
    (tmp_path / "seen/services.json").write_text(json.dumps({"not": "a list"}))
    kept.begin()
    assert [p.metadata.name for p in kept.pods.items()] == ["a"]
    assert kept.services.items() == []


async def test_a_disk_that_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoint, "AGAIN", 0.01)
    kept = Kept(tmp_path)
    (tmp_path / "seen").write_text("in the way")
    async with kept.running():
        kept.pods._replace("default/a", pod("a"))
        kept.services._replace("default/kubernetes", service("kubernetes"))
        await until(lambda: caplog.records and not kept.checkpoint._wake.is_set())
        (tmp_path / "seen").unlink()
        await until(lambda: kept.files and (tmp_path / "seen/services.json").exists())


async def test_what_is_gone_is_removed_even_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path)
    async with kept.running():
        kept.pods._replace("default/z", pod("z"))
        await until(lambda: kept.files)
        monkeypatch.setattr(kept.checkpoint, "_write", full)
        kept.pods._replace("default/a", pod("a"))
        kept.pods._replace("default/z", None)
        await until(lambda: not kept.files)


def full(path: Path, content: bytes) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_pods_of_another_node_and_older_namesakes_are_not_recalled(tmp_path: Path) -> None:
    folder = tmp_path / "seen" / "pods"
    folder.mkdir(parents=True)
    for name, uid, version, node in [
        ("a", "2-old", "9", "n"),
        ("a", "1-new", "10", "n"),
        ("b", "b", "11", "other"),
        ("c", "c", "12", "n"),
    ]:
        meta = ObjectMeta(name=name, namespace="default", uid=uid, resource_version=version)
        found = Pod(metadata=meta, spec=PodSpec(node_name=node))
        (folder / f"{uid}.json").write_bytes(msgspec.json.encode(found))
    assert sorted(each.metadata.uid for each in Kept(tmp_path).pods.items()) == ["1-new", "c"]
