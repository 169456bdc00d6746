"""Sources of pods: who wants what, what is an orphan, and which status a static pod goes on from."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from kube.informer import Change
from kube.meta import ObjectMeta
from kube.pods import Pod, PodStatus
from kubelet.observe.manifests import FILE, HTTP
from kubelet.observe.pods import PodSource
from kubelet.observe.static import StaticPod, static_pod
from kubelet.runtime import PodIdentity

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Api:
    """What PodSource uses of an informer."""

    def __init__(self) -> None:
        self.synced = asyncio.Event()
        self.known: dict[str, Pod] = {}
        self.tell: Any = None

    def subscribe(self, callback: Any) -> None:
        self.tell = callback

    def says(self, pod: Pod) -> None:
        old = self.known.get(pod.metadata.key)
        self.known[pod.metadata.key] = pod
        self.tell(Change(pod.metadata.key, old, pod))

    def forgets(self, name: str) -> None:
        self.tell(Change(f"default/{name}", self.known.pop(f"default/{name}"), None))


class World:
    def __init__(self, *local: str) -> None:
        self.api = Api()
        self.changed: list[str] = []
        self.mirrors: list[str] = []
        self.source = PodSource(self.api, self.changed.append, local)  # type: ignore[arg-type]  # what it uses of one
        self.source.subscribe_mirrors(self.mirrors.append)


def pod(name: str, uid: str, phase: str = "", **annotations: str) -> Pod:
    found = {key.replace("_", "/", 1): value for key, value in annotations.items()}
    meta = ObjectMeta(name=name, namespace="default", uid=uid, annotations=found)
    return Pod(metadata=meta, status=PodStatus(phase=phase))


def mirror(static: StaticPod, uid: str, phase: str = "") -> Pod:
    annotations = {"kubernetes.io/config.mirror": static.pod.metadata.uid}
    meta = ObjectMeta(name=static.pod.metadata.name, namespace="default", uid=uid, annotations=annotations)
    return Pod(metadata=meta, status=PodStatus(phase=phase))


def manifest(name: str = "web", image: str = "x", origin: str = "/m/web.yaml") -> StaticPod:
    spec = {"containers": [{"name": "a", "image": image}]}
    text = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    return static_pod(json.loads(text), "n", origin, "file", NOW)


async def test_nobody_is_an_orphan_before_all_sources_have_told() -> None:
    world = World(FILE, HTTP)
    assert not world.source.synced
    world.source.report(FILE, [])
    assert not world.source.synced
    world.api.synced.set()
    assert not world.source.synced
    world.source.report(HTTP, [])
    assert world.source.synced


async def test_the_api_and_files_are_one_set() -> None:
    world = World(FILE)
    static = manifest()
    world.api.says(pod("p", "u"))
    world.source.report(FILE, [static])
    assert {one.metadata.uid for one in world.source.pods()} == {"u", static.pod.metadata.uid}
    assert [world.source.is_static(uid) for uid in ("u", static.pod.metadata.uid)] == [False, True]
    world.api.says(pod("p", "u2"))
    assert world.source.get("u") is None
    assert world.changed[-2:] == ["u", "u2"]
    world.api.forgets("p")
    world.source.report(FILE, [])
    assert world.source.pods() == []


async def test_an_unchanged_set_wakes_nobody() -> None:
    world = World(FILE)
    static = manifest()
    world.source.report(FILE, [static])
    world.changed.clear()
    world.mirrors.clear()
    world.source.report(FILE, [static])
    assert (world.changed, world.mirrors) == ([], [])


async def test_of_two_sources_with_one_pod_the_first_wins() -> None:
    world = World(FILE, HTTP)
    one, other = manifest(), manifest(image="y", origin="/m/other.yaml")
    world.source.report(HTTP, [other])
    world.source.report(FILE, [one])
    assert [found.metadata.uid for found in world.source.pods()] == [one.pod.metadata.uid]
    assert world.source.superseded(PodIdentity("web-n", "default", other.pod.metadata.uid))
    assert not world.source.superseded(PodIdentity("web-n", "default", one.pod.metadata.uid))


async def test_a_mirror_shows_a_static_pod_and_is_none_itself() -> None:
    world = World(FILE)
    static = manifest()
    uid = static.pod.metadata.uid
    world.source.report(FILE, [static])
    world.api.says(mirror(static, "m"))
    assert [found.metadata.uid for found in world.source.pods()] == [uid]
    assert world.source.in_api(uid) is None, "nothing is told before the API has answered"
    world.api.synced.set()
    shown = world.source.in_api(uid)
    assert shown is not None
    assert shown.metadata.uid == "m"
    assert (world.source.own_uid("m"), world.source.own_uid("u")) == (uid, "u")
    world.api.forgets("web-n")
    assert world.source.in_api(uid) is None
    other = manifest(image="y")
    world.api.says(mirror(other, "m2"))
    assert world.source.in_api(uid) is None, "the mirror of another content"


async def test_a_static_pod_goes_on_from_its_mirrors_status_once() -> None:
    world = World(FILE)
    static = manifest()
    uid = static.pod.metadata.uid
    world.api.says(mirror(static, "m", "Pending"))  # as it was kept
    world.source.report(FILE, [static])
    world.api.says(mirror(static, "m", "Running"))  # as the first list has it
    found = world.source.get(uid)
    assert found is not None
    assert found.status.phase == "Running"
    world.api.synced.set()
    world.api.says(mirror(static, "m", "Failed"))  # what others write is not the pod's
    assert world.source.get(uid) is found
    world.source.report(FILE, [])
    world.source.report(FILE, [static])
    again = world.source.get(uid)
    assert again is not None
    assert again.status.phase == "Pending", "named again, it begins anew"


async def test_nobody_pretends_to_be_static() -> None:
    world = World()
    world.api.says(pod("p", "u", kubernetes_="x"))
    meta = ObjectMeta(name="q", namespace="default", uid="v", annotations={"kubernetes.io/config.source": "file"})
    world.api.says(Pod(metadata=meta))
    found = world.source.get("v")
    assert found is not None
    assert found.metadata.annotations == {"kubernetes.io/config.source": "api"}
