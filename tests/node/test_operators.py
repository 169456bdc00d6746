"""Operators on built-in kinds: one written with kopf, and one with nothing but the official Python client.

The centre is whole (API server, scheduler, controllers), so that owned objects are collected and deployments have pods.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import kubernetes
import pytest
from kubernetes import client as api
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

from tests.fakes.centre import Centre, centre, eventually

KOPF = Path(__file__).with_name("operator_kopf.py")


@asynccontextmanager
async def kopf_operator(made: Centre) -> AsyncIterator[subprocess.Popen[bytes]]:
    log = made.folder / "kopf.log"
    argv = [sys.executable, "-m", "kopf", "run", "--standalone", "--all-namespaces", str(KOPF)]
    with log.open("ab") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out, env=os.environ | {"KUBECONFIG": str(made.kubeconfig)})
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def core(made: Centre) -> api.CoreV1Api:
    return api.CoreV1Api(kubernetes.config.new_client_from_config(str(made.kubeconfig)))


async def found(read: Callable[[], Any], right: Callable[[Any], bool], what: str, log: Path | None = None) -> Any:
    """What `read` gives as soon as it is `right`; a 404 is not there yet."""

    async def check() -> Any:
        try:
            seen = await asyncio.to_thread(read)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return seen if right(seen) else None

    return await eventually(what, check, timeout=40, why=lambda: log.read_text()[-3000:] if log else "")


async def gone(read: Callable[[], Any], what: str, log: Path | None = None) -> None:
    async def check() -> bool:
        try:
            await asyncio.to_thread(read)
        except ApiException as error:
            return bool(error.status == 404)
        return False

    await eventually(what, check, timeout=40, why=lambda: log.read_text()[-3000:] if log else "")


def config_map(name: str, data: dict[str, str], **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"mirror": "yes"} | labels}, "data": data}


async def test_kopf(tmp_path: Path) -> None:
    async with centre(tmp_path) as made:
        v1, log = core(made), tmp_path / "kopf.log"
        async with kopf_operator(made):
            await asyncio.to_thread(
                v1.create_namespaced_config_map, "default", config_map("a", {"x": "1", "fail": "once"})
            )
            secret = await found(
                lambda: v1.read_namespaced_secret("a", "default"), lambda one: "x" in (one.data or {}), "a mirror", log
            )
            assert base64.b64decode(secret.data["x"]) == b"1"
            assert secret.metadata.owner_references[0].kind == "ConfigMap"
            handled = await found(
                lambda: v1.read_namespaced_config_map("a", "default"),
                lambda one: (
                    one.metadata.labels.get("mirrored") == "yes"
                    and "mirror.example/last-handled-configuration" in (one.metadata.annotations or {})
                ),
                "the handler's patch",
                log,
            )
            assert handled.metadata.finalizers == ["mirror.example/finalizer"]
            await asyncio.to_thread(v1.patch_namespaced_config_map, "a", "default", {"data": {"x": "2"}})
            await found(
                lambda: v1.read_namespaced_secret("a", "default"),
                lambda one: base64.b64decode(one.data["x"]) == b"2",
                "the mirror follows",
                log,
            )
            await _pods_are_greeted(v1, log)
        # While nobody operates, the world goes on; the next operator resumes from what the objects say.
        await asyncio.to_thread(v1.patch_namespaced_config_map, "a", "default", {"data": {"x": "3"}})
        await asyncio.to_thread(v1.create_namespaced_config_map, "default", config_map("b", {"x": "b"}, count="yes"))
        async with kopf_operator(made):
            for name, wanted in (("a", b"3"), ("b", b"b")):
                await found(
                    lambda name=name: v1.read_namespaced_secret(name, "default"),  # type: ignore[misc]
                    lambda one, wanted=wanted: base64.b64decode(one.data["x"]) == wanted,  # type: ignore[misc]
                    f"the mirror of {name}",
                    log,
                )
            await asyncio.to_thread(v1.delete_namespaced_config_map, "a", "default")
            await gone(lambda: v1.read_namespaced_config_map("a", "default"), "a deleted", log)
            await gone(lambda: v1.read_namespaced_secret("a", "default"), "its mirror deleted", log)
            events = await asyncio.to_thread(v1.list_namespaced_event, "default")
            assert any(one.reason == "NotYet" for one in events.items), [one.message for one in events.items]


async def _pods_are_greeted(v1: api.CoreV1Api, log: Path) -> None:
    pod = {
        "metadata": {"name": "p", "labels": {"greet": "yes"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    await asyncio.to_thread(v1.create_namespaced_pod, "default", pod)
    await found(
        lambda: v1.read_namespaced_pod("p", "default"),
        lambda one: (one.metadata.annotations or {}).get("mirror.example/greeted") == "hello",
        "a greeted pod",
        log,
    )


async def test_an_operator_of_the_official_client(tmp_path: Path) -> None:
    """List and watch, a work queue by hand, status by merge patch, optimistic retries, the dynamic client, election."""
    async with centre(tmp_path) as made:
        await asyncio.to_thread(_operate, made)


def _operate(made: Centre) -> None:
    connection = kubernetes.config.new_client_from_config(str(made.kubeconfig))
    v1, apps = api.CoreV1Api(connection), api.AppsV1Api(connection)
    dynamic = DynamicClient(connection)
    deployments = dynamic.resources.get(api_version="apps/v1", kind="Deployment")
    template = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "w"}}, "template": template}
    listed = v1.list_namespaced_pod("default", label_selector="app=w")  # before there is a pod: it comes as an event
    deployments.create({"metadata": {"name": "w"}, "spec": spec}, namespace="default")
    watch = kubernetes.watch.Watch()
    scaled = False
    for event in watch.stream(
        v1.list_namespaced_pod,
        "default",
        label_selector="app=w",
        resource_version=listed.metadata.resource_version,
        timeout_seconds=30,
    ):
        pod = event["object"]
        if event["type"] == "ADDED" and not scaled:
            apps.patch_namespaced_deployment_scale("w", "default", {"spec": {"replicas": 3}})
            scaled = True
        pods = v1.list_namespaced_pod("default", label_selector="app=w").items
        assert all(one.metadata.owner_references[0].kind == "ReplicaSet" for one in pods), pod
        if len(pods) == 3:
            watch.stop()
    assert len(v1.list_namespaced_pod("default", label_selector="app=w").items) == 3
    _two_writers(v1)
    apply = deployments.server_side_apply(
        body={"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"}, "spec": {"paused": True}},
        namespace="default",
        field_manager="operator",
    )
    assert apply.spec.paused is True
    assert "operator" in [one["manager"] for one in apply.to_dict()["metadata"]["managedFields"]]
    deployments.delete(name="w", namespace="default", body={"propagationPolicy": "Foreground"})
    for event in deployments.watch(namespace="default", timeout=30):
        if event["type"] == "DELETED":
            break
    assert v1.list_namespaced_pod("default", label_selector="app=w").items == []
    _elected(v1)


def _two_writers(v1: api.CoreV1Api) -> None:
    """The slower one is told 409, reads again, and loses nothing."""
    v1.create_namespaced_config_map("default", {"metadata": {"name": "shared"}, "data": {"n": "0"}})
    mine = v1.read_namespaced_config_map("shared", "default")
    theirs = v1.read_namespaced_config_map("shared", "default")
    theirs.data["theirs"] = "1"
    v1.replace_namespaced_config_map("shared", "default", theirs)
    mine.data["mine"] = "1"
    with pytest.raises(ApiException, match="the object has been modified") as stale:
        v1.replace_namespaced_config_map("shared", "default", mine)
    assert stale.value.status == 409
    mine = v1.read_namespaced_config_map("shared", "default")
    mine.data["mine"] = "1"
    done = v1.replace_namespaced_config_map("shared", "default", mine)
    assert done.data == {"n": "0", "theirs": "1", "mine": "1"}


def _elected(v1: api.CoreV1Api) -> None:
    def lead() -> None:
        record = v1.read_namespaced_config_map("lock", "default").metadata.annotations
        assert "me" in record["control-plane.alpha.kubernetes.io/leader"]

    kubernetes.client.Configuration.set_default(v1.api_client.configuration)
    config = electionconfig.Config(
        ConfigMapLock("lock", "default", "me"), lease_duration=3, renew_deadline=2, retry_period=1,
        onstarted_leading=lead, onstopped_leading=None,
    )  # fmt: skip
    election = leaderelection.LeaderElection(config)
    assert election.acquire()
    lead()
