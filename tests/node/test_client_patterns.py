"""What stock clients send, request by request, as they were seen to send it, where the client itself is not to be had here.

Go clients offer protobuf and take the JSON they get; from 1.32 on they also send protobuf and never try again as JSON. Each
test is one client against a server of its own: Prometheus' discovery, flannel, CoreDNS, metrics-server, kubelet 1.36,
kube-proxy 1.36, the controller manager and scheduler, kubectl 1.34 to 1.36.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.fakes.reflector import INITIAL_EVENTS_END, frames
from tests.node.apiserver import running
from tests.unit.apiserver.protobuf_writer import envelope

Obj = dict[str, Any]
PROTOBUF = "application/vnd.kubernetes.protobuf"
STRATEGIC = "application/strategic-merge-patch+json"
ANY = f"{PROTOBUF}, */*"
TYPED = f"{PROTOBUF},application/json"
PARTIAL = "as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"
METADATA_LIST = ",".join(f"{kind};{PARTIAL.format('List')}" for kind in (PROTOBUF, "application/json"))
METADATA = ",".join(f"{kind};{PARTIAL.format('')}" for kind in (PROTOBUF, "application/json"))
PODS = "/api/v1/namespaces/default/pods"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"


@dataclass(frozen=True, slots=True)
class Client:
    """One client's habits: its name and what it accepts."""

    session: aiohttp.ClientSession
    url: str
    agent: str
    accept: str = ANY

    async def __call__(
        self,
        method: str,
        path: str,
        body: Obj | bytes | None = None,
        *,
        code: int = 0,
        accept: str = "",
        kind: str = "",
    ) -> Any:
        """The decoded answer; with `kind` the body is sent as JSON under that Content-Type, otherwise as protobuf."""
        headers = {"User-Agent": self.agent, "Accept": accept or self.accept, "Accept-Encoding": "gzip"}
        data: bytes | None = None
        if body is not None:
            data = body if isinstance(body, bytes) else orjson.dumps(body) if kind else envelope(body)
            headers["Content-Type"] = kind or PROTOBUF
        async with self.session.request(method, self.url + path, data=data, headers=headers) as response:
            text = await response.read()
            wanted = code or (201 if method == "POST" else 200)
            assert response.status == wanted, f"{method} {path}: {response.status}: {text!r}"
            assert response.headers["Content-Type"].startswith("application/json"), response.headers
            return orjson.loads(text)

    async def follow(self, path: str, count: int, *, accept: str = "") -> list[tuple[str, Obj]]:
        """The first `count` events of a watch."""
        headers = {"User-Agent": self.agent, "Accept": accept or self.accept, "Accept-Encoding": "gzip"}
        found: list[tuple[str, Obj]] = []
        async with asyncio.timeout(10), self.session.get(self.url + path, headers=headers) as response:
            assert response.status == 200, f"{path}: {await response.text()}"
            assert response.headers["Content-Type"] == "application/json", response.headers
            if count:
                async for event in frames(response):
                    found.append(event)
                    if len(found) == count:
                        break
        return found

    async def informs(self, path: str, selectors: str = "") -> Obj:
        """LIST from the cache, then WATCH from there, as an informer does before WatchList; answers the list."""
        more = f"&{selectors}" if selectors else ""
        listed: Obj = await self("GET", f"{path}?limit=500&resourceVersion=0{more}")
        version = listed["metadata"]["resourceVersion"]
        assert int(version) > 0
        assert "continue" not in listed["metadata"]
        watch = f"{path}?allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds=392&watch=true{more}"
        await self.follow(watch, 0)
        return listed

    async def streams(self, path: str, selectors: str = "", *, accept: str = "") -> list[Obj]:
        """The WatchList of client-go 1.35 and later: the objects, ended by the bookmark that says so."""
        more = f"&{selectors}" if selectors else ""
        query = "allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&timeoutSeconds=310&watch=true"
        headers = {"User-Agent": self.agent, "Accept": accept or self.accept}
        found: list[Obj] = []
        async with (
            asyncio.timeout(10),
            self.session.get(f"{self.url}{path}?{query}{more}", headers=headers) as response,
        ):
            assert response.status == 200, f"{path}: {await response.text()}"
            async for word, obj in frames(response):
                if word == "BOOKMARK" and obj["metadata"].get("annotations", {}).get(INITIAL_EVENTS_END) == "true":
                    return found
                assert word == "ADDED"
                found.append(obj)
        raise AssertionError(f"{path}: the stream ended before its bookmark")


@asynccontextmanager
async def client(home: Path, agent: str, accept: str = ANY) -> AsyncIterator[Client]:
    async with running(home) as server:
        connector = aiohttp.TCPConnector(ssl=server.connection().ssl_context(), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Client(session, server.url, agent, accept)


def pod(name: str, node: str = "", **labels: str) -> Obj:
    spec: Obj = {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}
    metadata = {"name": name, "namespace": "default", "labels": labels}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": metadata,
        "spec": spec | ({"nodeName": node} if node else {}),
    }


def node(name: str) -> Obj:
    return {"kind": "Node", "apiVersion": "v1", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}


async def test_prometheus_discovery(tmp_path: Path) -> None:
    async with client(tmp_path, "Prometheus/2.42.0", "application/json, */*") as prometheus:
        for name in ("a", "b"):
            await prometheus("POST", PODS, pod(name, "n1" if name == "a" else "", app=name))
        for path in ("nodes", "namespaces", "pods", "services", "endpoints", "namespaces/default/pods"):
            listed = await prometheus.informs(f"/api/v1/{path}")
            assert listed["kind"].endswith("List")
        for path in ("discovery.k8s.io/v1/endpointslices", "networking.k8s.io/v1/ingresses"):
            await prometheus.informs(f"/apis/{path}")
        by_label = await prometheus.informs("/api/v1/pods", "labelSelector=app%3Da")
        by_field = await prometheus.informs("/api/v1/pods", "fieldSelector=spec.nodeName%3Dn1")
        assert [one["metadata"]["name"] for one in (*by_label["items"], *by_field["items"])] == ["a", "a"]
        refused = await prometheus("GET", "/api/v1/pods?fieldSelector=spec.color%3Dred", code=400)
        assert refused["message"] == "field label not supported: spec.color"


async def test_flannel(tmp_path: Path) -> None:
    async with client(tmp_path, "flanneld/v0.25.0") as flannel:
        await flannel("POST", "/api/v1/nodes", node("n1") | {"spec": {"podCIDR": "10.244.0.0/24"}})
        await flannel("POST", PODS, pod("flannel", "n1"))
        assert (await flannel("GET", f"{PODS}/flannel"))["spec"]["nodeName"] == "n1"
        await flannel.informs("/api/v1/nodes")
        data = '{"VNI":1,"VtepMAC":"12:34:56:78:9a:bc"}'
        annotations = {
            "flannel.alpha.coreos.com/backend-data": data,
            "flannel.alpha.coreos.com/backend-type": "vxlan",
            "flannel.alpha.coreos.com/kube-subnet-manager": "true",
            "flannel.alpha.coreos.com/public-ip": "10.0.0.1",
        }
        status = "/api/v1/nodes/n1/status"
        patched = await flannel("PATCH", status, {"metadata": {"annotations": annotations}}, kind=STRATEGIC)
        assert patched["metadata"]["annotations"] == annotations
        condition = {"type": "NetworkUnavailable", "status": "False", "reason": "FlannelIsUp"}
        for reason in ("FlannelIsUp", "StillUp"):
            change = {"status": {"conditions": [condition | {"reason": reason}]}}
            patched = await flannel("PATCH", status, change, kind=STRATEGIC)
            assert [one["reason"] for one in patched["status"]["conditions"]] == [reason]
        assert patched["metadata"]["annotations"] == annotations
        assert patched["spec"]["podCIDR"] == "10.244.0.0/24"


async def test_coredns(tmp_path: Path) -> None:
    async with client(tmp_path, "coredns/1.11 (linux/amd64)", ANY) as coredns:
        version = await coredns("GET", "/version")
        assert int(version["major"]) == 1
        assert int(version["minor"]) >= 21
        kinds = await coredns("GET", "/apis/discovery.k8s.io/v1")
        assert "endpointslices" in [one["name"] for one in kinds["resources"]]
        for path in ("/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/namespaces"):
            assert (await coredns.informs(path))["metadata"]["resourceVersion"]
        names = {one["metadata"]["name"] for one in (await coredns.informs("/api/v1/services"))["items"]}
        assert "kubernetes" in names


async def test_metrics_server(tmp_path: Path) -> None:
    async with client(tmp_path, "metrics-server/v0.7.1") as server:
        path = "/api/v1/namespaces/kube-system/configmaps"
        trust = await server("GET", f"{path}/extension-apiserver-authentication")
        assert "BEGIN CERTIFICATE" in trust["data"]["client-ca-file"]
        await server.informs(path, "fieldSelector=metadata.name%3Dextension-apiserver-authentication")
        review = {
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {},
            "spec": {"token": "x"},
        }
        answer = await server("POST", "/apis/authentication.k8s.io/v1/tokenreviews", review)
        assert not answer["status"].get("authenticated")
        asked = {
            "user": "prometheus",
            "groups": ["system:authenticated"],
            "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
        }
        access = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": asked}
        answer = await server("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", access)
        assert isinstance(answer["status"]["allowed"], bool)
        await server("POST", "/api/v1/nodes", node("n1"))
        await server.informs("/api/v1/nodes")
        await server("POST", PODS, pod("a", app="a"))
        listed = await server("GET", "/api/v1/pods?limit=500&resourceVersion=0", accept=METADATA_LIST)
        assert (listed["kind"], listed["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
        assert [sorted(one) for one in listed["items"]] == [["metadata"]] or listed["items"][0]["kind"]
        assert "spec" not in listed["items"][0]
        version = listed["metadata"]["resourceVersion"]
        watch = f"/api/v1/pods?allowWatchBookmarks=true&resourceVersion={int(version) - 128}&watch=true"
        [(word, seen)] = await server.follow(watch, 1, accept=METADATA_LIST)
        assert (word, seen["kind"], seen["metadata"]["name"]) == ("ADDED", "PartialObjectMetadata", "a")


CONDITIONS = [
    {"type": kind, "status": "False", "reason": f"KubeletHas{kind}"}
    for kind in ("MemoryPressure", "DiskPressure", "PIDPressure")
]


async def test_kubelet(tmp_path: Path) -> None:
    async with client(tmp_path, "kubelet/v1.36.0 (linux/amd64) kubernetes/abc") as kubelet:
        born = node("n1") | {
            "status": {"conditions": CONDITIONS, "capacity": {"cpu": "2", "memory": "8Gi", "pods": "110"}}
        }
        await kubelet("POST", "/api/v1/nodes", born)
        await kubelet("POST", "/api/v1/nodes", born, code=409)
        order = [{"type": one["type"]} for one in CONDITIONS]
        beat = {"status": {"$setElementOrder/conditions": order, "conditions": [
            {"lastHeartbeatTime": "2026-01-01T00:00:00Z", "type": one["type"]} for one in CONDITIONS
        ]}}  # fmt: skip
        patched = await kubelet("PATCH", "/api/v1/nodes/n1/status", beat, kind=STRATEGIC)
        assert [one["type"] for one in patched["status"]["conditions"]] == [one["type"] for one in CONDITIONS]
        assert all(one["lastHeartbeatTime"] and one["reason"] for one in patched["status"]["conditions"])
        same = await kubelet("PATCH", "/api/v1/nodes/n1/status", {}, kind=STRATEGIC)
        assert same["metadata"]["resourceVersion"] == patched["metadata"]["resourceVersion"]
        await _lease(kubelet, "kube-node-lease", "n1")
        for path, selector in (
            ("/api/v1/pods", "fieldSelector=spec.nodeName%3Dn1"),
            ("/api/v1/nodes", "fieldSelector=metadata.name%3Dn1"),
            ("/api/v1/services", "fieldSelector=spec.clusterIP%21%3DNone"),
            ("/apis/storage.k8s.io/v1/csidrivers", ""),
            ("/apis/node.k8s.io/v1/runtimeclasses", ""),
            ("/api/v1/namespaces/default/configmaps", "fieldSelector=metadata.name%3Dkube-root-ca.crt"),
            ("/api/v1/namespaces/default/secrets", "fieldSelector=metadata.name%3Ds"),
            ("/apis/certificates.k8s.io/v1/certificatesigningrequests", "fieldSelector=metadata.name%3Dcsr-1"),
        ):
            await kubelet.informs(path, selector)
            await kubelet.streams(path, selector)
        await kubelet("GET", "/apis/storage.k8s.io/v1/csinodes/n1", code=404)
        csinode = {"kind": "CSINode", "apiVersion": "storage.k8s.io/v1", "metadata": {"name": "n1"}, "spec": {}}
        await kubelet("POST", "/apis/storage.k8s.io/v1/csinodes", csinode)
        await _pod_life(kubelet)


async def _pod_life(kubelet: Client) -> None:
    made = await kubelet("POST", PODS, pod("a", "n1"))
    uid = made["metadata"]["uid"]
    status = {
        "metadata": {"uid": uid},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.2"}], "podIP": "10.244.0.2"},
    }
    patched = await kubelet("PATCH", f"{PODS}/a/status", status, kind=STRATEGIC)
    assert patched["status"]["phase"] == "Running"
    other = status | {"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}}
    await kubelet("PATCH", f"{PODS}/a/status", other, kind=STRATEGIC, code=409)
    reference = {"kind": "Pod", "namespace": "default", "name": "a", "uid": uid, "apiVersion": "v1"}
    event = {
        "kind": "Event", "apiVersion": "v1", "metadata": {"name": "a.1", "namespace": "default"},
        "involvedObject": reference, "reason": "Started", "message": "Started container c", "type": "Normal", "count": 1,
        "source": {"component": "kubelet", "host": "n1"},
    }  # fmt: skip
    await kubelet("POST", "/api/v1/namespaces/default/events", event)
    again = await kubelet("PATCH", "/api/v1/namespaces/default/events/a.1", {"count": 2}, kind=STRATEGIC)
    assert again["count"] == 2
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
    wrong = options | {"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}}
    await kubelet("DELETE", f"{PODS}/a", wrong, code=409)
    await kubelet("DELETE", f"{PODS}/a", options)
    await kubelet("GET", f"{PODS}/a", code=404)


async def _lease(holder: Client, namespace: str, name: str) -> None:
    """Made, renewed, and refused to whoever holds an old version."""
    path = LEASES.replace("kube-system", namespace)
    await holder("GET", f"{path}/{name}", code=404)
    wanted = {
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40},
    }
    made = await holder("POST", path, wanted)
    version = made["metadata"]["resourceVersion"]
    renewed = wanted | {
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 41},
    }
    assert (await holder("PUT", f"{path}/{name}", renewed))["spec"]["leaseDurationSeconds"] == 41
    await holder("PUT", f"{path}/{name}", renewed, code=409)


async def test_kube_proxy(tmp_path: Path) -> None:
    async with client(tmp_path, "kube-proxy/v1.36.0 (linux/amd64) kubernetes/abc") as proxy:
        headless = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "headless", "namespace": "default"},
                    "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}  # fmt: skip
        await proxy("POST", "/api/v1/namespaces/default/services", headless)
        mine = "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name"
        services = await proxy.streams("/api/v1/services", f"fieldSelector=spec.clusterIP%21%3DNone&{mine}")
        assert [one["metadata"]["name"] for one in services] == ["kubernetes"]
        without = "labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2Fservice-proxy-name"
        await proxy.streams("/apis/discovery.k8s.io/v1/endpointslices", without)
        await proxy.informs("/api/v1/nodes", "fieldSelector=metadata.name%3Dn1")
        ranges = await proxy.streams("/apis/networking.k8s.io/v1/servicecidrs")
        assert [one["metadata"]["name"] for one in ranges] == ["kubernetes"]
        event = {
            "kind": "Event",
            "apiVersion": "events.k8s.io/v1",
            "metadata": {"name": "n1.1", "namespace": "default"},
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "kube-proxy",
            "reportingInstance": "kube-proxy-n1",
            "action": "StartKubeProxy",
            "reason": "Starting",
            "regarding": {"kind": "Node", "name": "n1"},
            "type": "Normal",
        }
        made = await proxy("POST", "/apis/events.k8s.io/v1/namespaces/default/events", event, kind="application/json")
        assert made["apiVersion"] == "events.k8s.io/v1"


WATCHED = (
    "/api/v1/configmaps /api/v1/endpoints /api/v1/limitranges /api/v1/namespaces /api/v1/nodes "
    "/api/v1/persistentvolumeclaims /api/v1/persistentvolumes /api/v1/pods /api/v1/podtemplates "
    "/api/v1/replicationcontrollers /api/v1/resourcequotas /api/v1/secrets /api/v1/serviceaccounts /api/v1/services "
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies "
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations "
    "/apis/apps/v1/controllerrevisions /apis/apps/v1/daemonsets /apis/apps/v1/deployments /apis/apps/v1/replicasets "
    "/apis/apps/v1/statefulsets /apis/autoscaling/v2/horizontalpodautoscalers /apis/batch/v1/cronjobs "
    "/apis/batch/v1/jobs /apis/certificates.k8s.io/v1/certificatesigningrequests "
    "/apis/coordination.k8s.io/v1/leases /apis/discovery.k8s.io/v1/endpointslices "
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas /apis/networking.k8s.io/v1/ingressclasses "
    "/apis/networking.k8s.io/v1/ingresses /apis/networking.k8s.io/v1/ipaddresses "
    "/apis/networking.k8s.io/v1/networkpolicies /apis/networking.k8s.io/v1/servicecidrs "
    "/apis/node.k8s.io/v1/runtimeclasses /apis/policy/v1/poddisruptionbudgets "
    "/apis/rbac.authorization.k8s.io/v1/clusterroles /apis/rbac.authorization.k8s.io/v1/rolebindings "
    "/apis/resource.k8s.io/v1/deviceclasses /apis/resource.k8s.io/v1/resourceclaims "
    "/apis/resource.k8s.io/v1/resourceslices /apis/scheduling.k8s.io/v1/priorityclasses "
    "/apis/storage.k8s.io/v1/csidrivers /apis/storage.k8s.io/v1/csinodes "
    "/apis/storage.k8s.io/v1/csistoragecapacities /apis/storage.k8s.io/v1/storageclasses "
    "/apis/storage.k8s.io/v1/volumeattachments"
)


async def test_controller_manager_and_scheduler(tmp_path: Path) -> None:
    async with client(tmp_path, "kube-controller-manager/v1.36.0 (linux/amd64) kubernetes/abc") as manager:
        await _lease(manager, "kube-system", "kube-controller-manager")
        for path in WATCHED.split():
            await manager.streams(path)
            await manager.streams(path, accept=METADATA_LIST)
        await manager("POST", "/api/v1/nodes", node("n1"))
        made = await manager("POST", PODS, pod("a"))
        binding = {
            "kind": "Binding",
            "apiVersion": "v1",
            "metadata": {"name": "a", "namespace": "default", "uid": made["metadata"]["uid"]},
            "target": {"kind": "Node", "name": "n1"},
        }
        await manager("POST", f"{PODS}/a/binding", binding)
        await manager("POST", f"{PODS}/a/binding", binding, code=409)
        alone = await manager("GET", f"{PODS}/a", accept=METADATA)
        assert (alone["kind"], "spec" in alone) == ("PartialObjectMetadata", False)
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        await manager("DELETE", f"{PODS}?labelSelector=app%3Dnobody", options)
        namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "x"}}
        await manager("POST", "/api/v1/namespaces", namespace)
        going = await manager("DELETE", "/api/v1/namespaces/x")
        assert going["status"]["phase"] == "Terminating"
        kept = {key: going["metadata"][key] for key in ("name", "uid", "resourceVersion")}
        await manager("PUT", "/api/v1/namespaces/x/finalize", namespace | {"metadata": kept, "spec": {}})
        await manager("GET", "/api/v1/namespaces/x", code=404)


TABLE = ",".join(f"application/json;as=Table;v={one};g=meta.k8s.io" for one in ("v1", "v1beta1")) + ",application/json"


async def test_kubectl_of_tomorrow(tmp_path: Path) -> None:
    """1.34 to 1.36: protobuf both ways, WatchList in `wait`, aggregated discovery v2 only."""
    async with client(tmp_path, "kubectl/v1.36.0 (linux/amd64) kubernetes/abc", TYPED) as kubectl:
        discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
        for path in ("/api", "/apis"):
            found = await kubectl("GET", f"{path}?timeout=32s", accept=discovery)
            assert found["kind"] == "APIGroupDiscoveryList"
        index = await kubectl("GET", "/openapi/v3?timeout=32s", accept="application/json, */*")
        group = await kubectl(
            "GET", index["paths"]["apis/apps/v1"]["serverRelativeURL"], accept="application/json, */*"
        )
        patch = group["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
        assert "fieldValidation" in [one["name"] for one in patch["parameters"]]
        create = "?fieldManager=kubectl-create&fieldValidation=Strict"
        for name, obj in {
            "namespaces": {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "x"}},
            "namespaces/x/configmaps": {
                "kind": "ConfigMap",
                "apiVersion": "v1",
                "metadata": {"name": "c"},
                "data": {"a": "b"},
            },
            "namespaces/x/serviceaccounts": {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "s"}},
            "namespaces/x/pods": pod("p") | {"metadata": {"name": "p", "namespace": "x"}},
        }.items():
            await kubectl("POST", f"/api/v1/{name}{create}", obj)
        table = await kubectl("GET", "/api/v1/namespaces/x/pods?limit=500", accept=TABLE)
        assert [one["name"] for one in table["columnDefinitions"]][:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
        assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
        [waiting] = await kubectl.streams("/api/v1/namespaces/x/pods", "fieldSelector=metadata.name%3Dp")
        assert waiting["metadata"]["name"] == "p"
        assert await kubectl.streams("/api/v1/namespaces/x/pods", "fieldSelector=metadata.name%3Dnone") == []
        may = {
            "kind": "SelfSubjectAccessReview",
            "apiVersion": "authorization.k8s.io/v1",
            "metadata": {},
            "spec": {"resourceAttributes": {"namespace": "x", "verb": "get", "version": "*", "resource": "pods"}},
        }
        answer = await kubectl("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", may)
        assert answer["status"]["allowed"] is True
        who = {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}}
        answer = await kubectl("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", who)
        assert answer["status"]["userInfo"]["username"] == "kubernetes-admin"
        token = {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {},
            "spec": {"expirationSeconds": 600},
        }
        answer = await kubectl("POST", "/api/v1/namespaces/x/serviceaccounts/s/token", token)
        assert answer["status"]["token"].count(".") == 2
