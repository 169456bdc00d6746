"""metrics.k8s.io: what a kubelet's page says, rates between two looks, and whom the answer leaves out."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from apiserver import usage
from apiserver.relay.kubelets import Kubelet
from apiserver.usage import Point, Samples, between, binary, parsed
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
    assert parsed("", 0) == usage.Sample(None, {})
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


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0"), (1000, "1000"), (1024, "1Ki"), (3 << 20, "3Mi"), (5 << 30, "5Gi")]
)
def test_amounts_are_told_in_whole_units(amount: int, text: str) -> None:
    assert binary(amount) == text


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
    assert (len(kubelets.asked), kubelets.waits) == (2, [usage.FIRST])
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
    kubelets.down = set()
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
        resources = (await calls.get("/apis/metrics.k8s.io/v1beta1")).json["resources"]
        assert {one["name"]: one["verbs"] for one in resources} == {"nodes": ["get", "list"], "pods": ["get", "list"]}
        groups = (await calls.get("/apis")).json["groups"]
        assert "metrics.k8s.io" in [group["name"] for group in groups]

    await with_pods(test)
