"""What limits a namespace and what protects its pods, through real daemons: quotas, disruption budgets, volume protection."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from apiserver.schema import GVK
from controllers import kinds
from kube.client import Client, Patch
from kube.errors import ApiError, Forbidden, NotFound
from kube.meta import Typed
from kube.resources import NAMESPACES, PODDISRUPTIONBUDGETS, PODS, RESOURCEQUOTAS, Resource
from tests.fakes.centre import centre, eventually
from tests.unit.apiserver import manifests

NS = "default"
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, Typed)


def pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}
    return {"metadata": {"name": name, "labels": {"app": "a"}}, "spec": {"containers": [container], **spec}}


async def used(client: Client, namespace: str = NS) -> dict[str, str]:
    found: dict[str, str] = (await client.get(RESOURCEQUOTAS, "q", namespace)).status.get("used", {})
    return found


async def test_a_quota_holds_under_a_rush_and_is_given_back(tmp_path: Path) -> None:
    async with centre(tmp_path) as made, made.client() as client:
        hard = {"pods": "5", "requests.cpu": "1", "count/configmaps": "100"}
        await client.create(RESOURCEQUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": hard}}, NS)

        async def counted() -> bool:
            return (await used(client)).get("pods") == "0"

        await eventually("the quota is counted", counted)
        await eventually("the namespace has its account", lambda: _has_account(client))
        answers = await asyncio.gather(
            *(client.create(PODS, pod(f"p{n}"), NS) for n in range(20)), return_exceptions=True
        )
        refused = [one for one in answers if isinstance(one, Forbidden)]
        assert len(refused) == 15
        assert "exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5" in str(refused[0])
        assert (await used(client))["requests.cpu"] == "500m"
        names = [one.metadata.name for one in answers if not isinstance(one, BaseException)]
        for name in names[:3]:
            await client.delete(PODS, name, NS, grace_period_seconds=0)

        async def returned() -> bool:
            found = await used(client)
            return (found["pods"], found["requests.cpu"]) == ("2", "200m")

        await eventually("what left is given back", returned)
        unsized = pod("unsized")
        del unsized["spec"]["containers"][0]["resources"]
        with pytest.raises(Forbidden, match=re.escape("failed quota: q: must specify requests.cpu for: c")):
            await client.create(PODS, unsized, NS)


async def _has_account(client: Client) -> bool:
    try:
        await client.request("GET", f"/api/v1/namespaces/{NS}/serviceaccounts/default")
    except NotFound:
        return False
    return True


async def _running(client: Client, name: str, node: str = "n1") -> None:
    await client.create(PODS, pod(name, nodeName=node), NS)
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await client.patch(PODS, name, {"status": status}, NS, kind=Patch.MERGE, subresource="status")


async def test_a_budget_is_counted_and_spent(tmp_path: Path) -> None:
    async with centre(tmp_path) as made, made.client() as client:
        await eventually("the namespace has its account", lambda: _has_account(client))
        for name in ("a", "b", "c"):
            await _running(client, name)
        spec = {"minAvailable": 2, "selector": {"matchLabels": {"app": "a"}}}
        await client.create(PODDISRUPTIONBUDGETS, {"metadata": {"name": "b"}, "spec": spec}, NS)

        async def allows(number: int) -> bool:
            status = (await client.get(PODDISRUPTIONBUDGETS, "b", NS)).status
            return status.observed_generation > 0 and status.disruptions_allowed == number

        await eventually("the budget allows one", lambda: allows(1))
        await _evict(client, "a")
        with pytest.raises(ApiError, match="would violate the pod's disruption budget"):
            await _evict(client, "b")
        await client.delete(PODS, "a", NS, grace_period_seconds=0)
        await _running(client, "d")
        await eventually("a new pod makes room", lambda: allows(1))
        await _evict(client, "b")


async def _evict(client: Client, name: str) -> None:
    body = {"kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": name, "namespace": NS}}
    await client.create_subresource(PODS, name, "eviction", body, NS)


async def test_claims_in_use_stay_until_nobody_uses_them(tmp_path: Path) -> None:
    async with centre(tmp_path) as made, made.client() as client:
        await eventually("the namespace has its account", lambda: _has_account(client))
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        for name in ("used", "unused"):
            claim = await client.create(CLAIMS, {"metadata": {"name": name}, "spec": spec}, NS)
            assert claim.metadata.finalizers == ("kubernetes.io/pvc-protection",)
        volume = {"name": "v", "persistentVolumeClaim": {"claimName": "used"}}
        await client.create(PODS, pod("p", nodeName="n1", volumes=[volume]), NS)
        for name in ("used", "unused"):
            await client.delete(CLAIMS, name, NS)

        async def there() -> set[str]:
            return {one.metadata.name for one in (await client.list(CLAIMS, NS)).items}

        async def only_used() -> bool:
            return await there() == {"used"}

        await eventually("the unused one goes", only_used)
        await client.delete(PODS, "p", NS, grace_period_seconds=0)

        async def none() -> bool:
            return not await there()

        await eventually("the used one follows", none)


async def test_a_namespace_ends_with_all_that_is_in_it(tmp_path: Path) -> None:
    """Of every kind that the server serves and that a namespace can hold: one object each."""
    async with centre(tmp_path) as made, made.client() as client:
        await client.create(NAMESPACES, {"metadata": {"name": "full"}})
        served = [kind for kind in await kinds.discover(client) if kind.namespaced]
        made_of = 0
        limiting = {"limitranges", "resourcequotas"}  # last: they would hold against the others
        for kind in sorted(served, key=lambda one: one.plural in limiting):
            gvk = GVK(kind.group, kind.version, kind.kind)
            if gvk in manifests.kinds():
                await client.create(kind, manifests.manifest(gvk) | {"kind": kind.kind}, "full")
                made_of += 1
        assert made_of >= 15
        await client.delete(NAMESPACES, "full")

        async def gone() -> bool:
            try:
                await client.get(NAMESPACES, "full")
            except NotFound:
                return True
            return False

        await eventually("the namespace is gone", gone, timeout=60)
