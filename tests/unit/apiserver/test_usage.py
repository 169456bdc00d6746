"""metrics.k8s.io: what a kubelet's page says, rates between two looks, and whom the answer leaves out."""

from collections.abc import Awaitable, Callable
from typing import Any

from apiserver.relay.kubelets import Kubelet
from apiserver.usage import Samples
from apiserver.usage.points import Point, Sample, between, parsed
from apiserver.usage.samples import AGAIN, FIRST
from tests.unit.apiserver.calls import Calls, serving

PAGE = """\
# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total {cpu} {when}
node_memory_working_set_bytes 1.048576e+06 {when}
container_cpu_usage_seconds_total{{container="c",namespace="default",pod="p"}} {cpu} {when}
container_memory_working_set_bytes{{container="c",namespace="default",pod="p"}} 4096 {when}
container_start_time_seconds{{container="c",namespace="default",pod="p"}} {started}
container_cpu_usage_seconds_total{{container="half",namespace="default",pod="p"}} 1 {when}
pod_cpu_usage_seconds_total{{namespace="default",pod="p"}} {cpu} {when}
resource_scrape_error 0
nonsense {{
"""


def page(cpu: float, when: float, started: float = 5.0) -> str:
    return PAGE.format(cpu=cpu, when=int(when * 1000), started=started)


def test_what_a_page_says() -> None:
    found = parsed(page(2.5, 100.0), now=0)
    assert found.node == Point(100.0, 2.5, 1048576)
    assert found.containers == {("default", "p", "c"): Point(100.0, 2.5, 4096, 5.0)}
    assert parsed("", 0) == Sample(None, {})
    assert parsed("node_cpu_usage_seconds_total 1\nnode_memory_working_set_bytes 2\n", 7.0).node == Point(7.0, 1.0, 2)
    assert parsed("node_cpu_usage_seconds_total NaN\nnode_memory_working_set_bytes +Inf\n", 7.0).node is None


def test_a_rate_is_taken_between_two_points_of_one_life() -> None:
    found = between(Point(10, 1.0, 5, 3), Point(14, 2.0, 8192, 3))
    assert found is not None
    assert (found.window, found.to_dict()) == (4, {"cpu": "250000000n", "memory": "8Ki"})
    assert between(Point(10, 1.0, 5, 3), Point(14, 2.0, 5, 4)) is None
    assert between(Point(10, 1.0), Point(14, 0.5)) is None
    assert between(Point(10, 1.0), Point(10, 1.0)) is None
    assert between(None, Point(10, 1.0)) is None


def test_a_container_that_began_between_the_points_is_measured_from_its_beginning() -> None:
    found = between(None, Point(14, 2.0, 1024, 10))
    assert found is not None
    assert (found.window, found.to_dict()) == (4, {"cpu": "500000000n", "memory": "1Ki"})
    assert between(Point(9, 50.0, 5, 3), Point(14, 2.0, 1024, 10)) == found  # restarted
    assert between(None, Point(10.5, 2.0, 1024, 10)) is None  # too young to say


class Kubelets:
    """Each fetch is a second later and half a second of CPU more."""

    def __init__(self) -> None:
        self.now, self.cpu = 1000.0, 10.0
        self.asked: list[str] = []
        self.waits: list[float] = []
        self.down: set[str] = set()

    async def fetch(self, kubelet: Kubelet) -> str:
        self.asked.append(kubelet.host)
        if kubelet.host in self.down:
            raise TimeoutError
        self.now, self.cpu = self.now + 1, self.cpu + 0.5
        return page(self.cpu, self.now)

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def samples(self) -> Samples:
        return Samples(self.fetch, clock=lambda: self.now, wait=self.wait)


async def test_the_first_look_is_two_and_the_next_is_none_or_one() -> None:
    kubelets = Kubelets()
    samples, nodes = kubelets.samples(), {"n": Kubelet("10.0.0.1", 1)}
    assert set(await samples.of(nodes)) == {"n"}
    assert (len(kubelets.asked), kubelets.waits) == (2, [FIRST])
    await samples.of(nodes)
    assert len(kubelets.asked) == 2
    kubelets.now += 30
    older, newer = (await samples.of(nodes))["n"]
    assert len(kubelets.asked) == 3
    assert newer.when - older.when == 31
    kubelets.now += 1000
    older, newer = (await samples.of(nodes))["n"]
    assert newer.when - older.when == 1
    samples.keep(())
    await samples.of(nodes)
    assert len(kubelets.asked) == 7


async def test_a_node_that_does_not_answer_is_left_out_until_it_does() -> None:
    kubelets = Kubelets()
    samples, nodes = kubelets.samples(), {"a": Kubelet("10.0.0.1", 1), "b": Kubelet("10.0.0.2", 1)}
    kubelets.down = {"10.0.0.2"}
    assert set(await samples.of(nodes)) == {"a"}
    asked = len(kubelets.asked)
    assert set(await samples.of(nodes)) == {"a"}
    assert len(kubelets.asked) == asked  # one request waits for it, not each
    kubelets.down = set()
    kubelets.now += AGAIN
    assert set(await samples.of(nodes)) == {"a", "b"}


async def with_pods(test: Callable[[Calls, Callable[[str], Awaitable[Any]]], Awaitable[None]]) -> None:
    kubelets = Kubelets()
    kubelets.down = {"10.0.0.2"}
    async with serving(samples=kubelets.samples()) as calls:
        for name, address in (("n1", "10.0.0.1"), ("n2", "10.0.0.2"), ("n3", "")):
            labelled = {"metadata": {"name": name, "labels": {"name": name}}}
            assert (await calls.post("/api/v1/nodes", labelled)).code == 201
            addresses = [{"type": "InternalIP", "address": address}] if address else []
            await calls.patch(f"/api/v1/nodes/{name}/status", {"status": {"addresses": addresses}})
        for name, node in (("p", "n1"), ("quiet", "n1"), ("elsewhere", "n2"), ("pending", "")):
            spec = {"containers": [{"name": "c", "image": "x"}], **({"nodeName": node} if node else {})}
            body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
            assert (await calls.post("/api/v1/namespaces/default/pods", body)).code == 201

        async def get(path: str) -> Any:
            return await calls.get(f"/apis/metrics.k8s.io/v1beta1/{path}")

        await test(calls, get)


async def test_nodes_and_pods() -> None:
    async def test(calls: Calls, get: Callable[[str], Awaitable[Any]]) -> None:
        found = (await get("nodes")).json
        assert (found["kind"], [item["metadata"]["name"] for item in found["items"]]) == ("NodeMetricsList", ["n1"])
        assert found["items"][0]["usage"] == {"cpu": "500000000n", "memory": "1Mi"}
        assert found["items"][0]["window"] == "1s"
        assert (await get("nodes/n1")).json["kind"] == "NodeMetrics"
        assert (await get("nodes?labelSelector=name%3Dn2")).json["items"] == []
        pods = (await get("pods")).json
        assert pods["kind"] == "PodMetricsList"
        (pod,) = pods["items"]
        assert pod["metadata"]["namespace"] == "default"
        assert pod["metadata"]["labels"] == {"app": "p"}
        assert pod["containers"] == [{"name": "c", "usage": {"cpu": "500000000n", "memory": "4Ki"}}]
        assert (await get("namespaces/default/pods/p")).json["containers"] == pod["containers"]
        assert (await get("namespaces/default/pods?labelSelector=app%3Dquiet")).json["items"] == []
        assert len((await get("namespaces/default/pods?fieldSelector=metadata.name%3Dp")).json["items"]) == 1
        assert (await get("namespaces/other/pods")).json["items"] == []

    await with_pods(test)


async def test_refusals_and_discovery() -> None:
    async def test(calls: Calls, get: Callable[[str], Awaitable[Any]]) -> None:
        missing = await get("nodes/n2")
        assert (missing.code, missing.json["message"]) == (404, 'nodes.metrics.k8s.io "n2" not found')
        assert (await get("namespaces/default/pods/absent")).code == 404
        assert (await get("pods?labelSelector=,,%3D")).code == 400
        assert (await get("services")).code == 404
        assert (await calls.call("DELETE", "/apis/metrics.k8s.io/v1beta1/nodes/n1")).code == 405
        assert (await get("nodes?watch=true")).code == 405
        resources = (await calls.get("/apis/metrics.k8s.io/v1beta1")).json["resources"]
        assert {one["name"]: one["verbs"] for one in resources} == {"nodes": ["get", "list"], "pods": ["get", "list"]}
        groups = (await calls.get("/apis")).json["groups"]
        assert "metrics.k8s.io" in [group["name"] for group in groups]

    await with_pods(test)


async def test_rows_for_kubectl_get() -> None:
    async def test(calls: Calls, get: Callable[[str], Awaitable[Any]]) -> None:
        table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
        path = "/apis/metrics.k8s.io/v1beta1"
        nodes = (await calls.get(f"{path}/nodes", Accept=table)).json
        assert [column["name"] for column in nodes["columnDefinitions"]] == ["Name", "cpu", "memory", "Window"]
        assert [row["cells"] for row in nodes["rows"]] == [["n1", "500000000n", "1Mi", "1s"]]
        pod = (await calls.get(f"{path}/namespaces/default/pods/p", Accept=table)).json
        assert [row["cells"] for row in pod["rows"]] == [["p", "500000000n", "4Ki", "1s"]]
        bare = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
        (only,) = (await calls.get(f"{path}/pods", Accept=bare)).json["items"]
        assert (only["kind"], only["metadata"]["name"]) == ("PartialObjectMetadata", "p")

    await with_pods(test)


async def test_the_types_are_in_openapi() -> None:
    async def test(calls: Calls, get: Callable[[str], Awaitable[Any]]) -> None:
        index = (await calls.get("/openapi/v3")).json["paths"]
        found = (await calls.get(index["apis/metrics.k8s.io/v1beta1"]["serverRelativeURL"])).json
        schemas = found["components"]["schemas"]
        pods = schemas["io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics"]
        assert set(pods["properties"]) == {"apiVersion", "kind", "metadata", "timestamp", "window", "containers"}
        assert "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}" in found["paths"]

    await with_pods(test)


async def test_a_pod_of_which_a_container_says_nothing_is_left_out() -> None:
    young = 'container_cpu_usage_seconds_total{{container="new",namespace="default",pod="p"}} 0.1 {when}\n'
    young += 'container_memory_working_set_bytes{{container="new",namespace="default",pod="p"}} 4096 {when}\n'

    class Restarting(Kubelets):
        async def fetch(self, kubelet: Kubelet) -> str:
            text = await super().fetch(kubelet)
            return text + young.format(when=int(self.now * 1000)) if len(self.asked) % 2 == 0 else text

    kubelets = Restarting()
    async with serving(samples=kubelets.samples()) as calls:
        assert (await calls.post("/api/v1/nodes", {"metadata": {"name": "n1"}})).code == 201
        addresses = [{"type": "InternalIP", "address": "10.0.0.1"}]
        await calls.patch("/api/v1/nodes/n1/status", {"status": {"addresses": addresses}})
        spec = {"containers": [{"name": "c", "image": "x"}], "nodeName": "n1"}
        await calls.post("/api/v1/namespaces/default/pods", {"metadata": {"name": "p"}, "spec": spec})
        assert (await calls.get("/apis/metrics.k8s.io/v1beta1/pods")).json["items"] == []
        kubelets.now += 30
        (pod,) = (await calls.get("/apis/metrics.k8s.io/v1beta1/pods")).json["items"]
        assert [each["name"] for each in pod["containers"]] == ["c"]


async def test_nobody_waits_for_a_node_that_is_lost() -> None:
    kubelets = Kubelets()
    async with serving(samples=kubelets.samples()) as calls:
        for name, ready in (("n1", "True"), ("n2", "Unknown")):
            assert (await calls.post("/api/v1/nodes", {"metadata": {"name": name}})).code == 201
            addresses = [{"type": "InternalIP", "address": f"10.0.0.{name[1]}"}]
            conditions = [{"type": "Ready", "status": ready}]
            status = {"status": {"addresses": addresses, "conditions": conditions}}
            assert (await calls.patch(f"/api/v1/nodes/{name}/status", status)).code == 200
        found = (await calls.get("/apis/metrics.k8s.io/v1beta1/nodes")).json
        assert [node["metadata"]["name"] for node in found["items"]] == ["n1"]
        assert set(kubelets.asked) == {"10.0.0.1"}
