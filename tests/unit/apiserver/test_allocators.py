"""ClusterIPs and NodePorts: never twice, never lost."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver import allocators
from apiserver.allocations import DESCRIBERS, Books
from apiserver.allocators import Allocators, drop_foreign
from apiserver.cache import Cache, storage_bytes
from apiserver.errors import StatusError
from apiserver.ranges import Ranges, addresses_of, ports_of
from apiserver.registry import Registry

REGISTRY = Registry()
SERVICES = REGISTRY.core("services")
SMALL = Ranges(ipaddress.ip_network("10.0.0.0/28"), 30000, 30003)


def service(name: str = "s", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "d"}
    return {"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": {"type": "ClusterIP", **spec}}


class World:
    """A shelf of Services and the allocators that follow it."""

    def __init__(self, ranges: Ranges = SMALL) -> None:
        cache = Cache(REGISTRY.describers() | DESCRIBERS)
        self.shelf = cache.shelf(SERVICES.prefix)
        self.rv = 0
        self.allocators = Allocators(ranges, Books(cache, REGISTRY, ranges), rng=random.Random(1))
        self.following = self.allocators.following(self.shelf)
        self.following.__enter__()

    def write(self, obj: dict[str, Any], old: dict[str, Any] | None = None, *, commit: bool = True) -> dict[str, Any]:
        with self.allocators.assigning(SERVICES, obj, old):
            if commit:
                self.rv += 1
                self.shelf.apply(("d", obj["metadata"]["name"]), storage_bytes(obj), self.rv)
        return obj

    def delete(self, name: str) -> None:
        self.rv += 1
        self.shelf.apply(("d", name), None, self.rv)


def test_a_range_gives_every_address_once_and_then_says_so() -> None:
    world = World()
    given = [world.write(service(f"s{n}"))["spec"]["clusterIP"] for n in range(13)]
    assert set(given) == {f"10.0.0.{n}" for n in range(2, 15)}  # the first is kept for Service kubernetes
    with pytest.raises(StatusError, match="range is full"):
        world.write(service("more"))
    world.delete("s3")
    assert world.write(service("more"))["spec"]["clusterIP"] == given[3]


def test_what_was_not_committed_is_free_again() -> None:
    world = World()
    asked = service("a", type="NodePort", clusterIP="10.0.0.9", ports=[{"port": 1, "nodePort": 30001}])
    world.write(asked, commit=False)
    assert world.write(service("b", **asked["spec"]))["spec"]["clusterIP"] == "10.0.0.9"


def test_what_is_being_written_is_not() -> None:
    world = World()
    with world.allocators.assigning(SERVICES, service("a", clusterIP="10.0.0.9"), None):
        with pytest.raises(StatusError, match="provided IP is already allocated"):
            world.write(service("b", clusterIP="10.0.0.9"))


async def test_what_an_impatient_client_left_behind_is_held_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its write may still reach the disk."""
    monkeypatch.setattr(allocators, "UNSURE_SECONDS", 0.0)
    world = World()
    asked = service("a", clusterIP="10.0.0.9")
    with pytest.raises(asyncio.CancelledError), world.allocators.assigning(SERVICES, asked, None):
        raise asyncio.CancelledError
    with pytest.raises(StatusError, match="provided IP is already allocated"):
        world.write(service("b", clusterIP="10.0.0.9"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert world.write(service("b", clusterIP="10.0.0.9"))["spec"]["clusterIP"] == "10.0.0.9"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.0.0.0", "not in the valid range"),
        ("10.0.0.15", "not in the valid range"),
        ("10.0.1.1", "not in the valid range. The range of valid IPs is 10.0.0.0/28"),
        ("nonsense", "must be a valid IP address"),
    ],
)
def test_addresses_that_cannot_be_had(address: str, why: str) -> None:
    with pytest.raises(StatusError, match=why):
        World().write(service(clusterIP=address))


def test_ports_of_one_service_may_share_a_number_over_two_protocols() -> None:
    ports = [{"name": "t", "port": 53, "nodePort": 30000, "protocol": "TCP"}]
    both = [*ports, {"name": "u", "port": 53, "nodePort": 30000, "protocol": "UDP"}]
    World().write(service(type="NodePort", ports=both))
    with pytest.raises(StatusError, match="already allocated"):
        World().write(service(type="NodePort", ports=[*ports, {"name": "x", "port": 54, "nodePort": 30000}]))


def test_a_load_balancer_may_do_without_node_ports_but_not_without_a_health_port() -> None:
    spec = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "externalTrafficPolicy": "Local"}
    made = World().write(service(**spec, ports=[{"port": 80}]))["spec"]
    assert "nodePort" not in made["ports"][0]
    assert 30000 <= made["healthCheckNodePort"] <= 30003


def test_external_names_have_neither() -> None:
    made = World().write(service(type="ExternalName", externalName="x.example"))["spec"]
    assert "clusterIP" not in made


def test_a_changed_type_drops_what_it_no_longer_has() -> None:
    world = World()
    old = world.write(service(type="NodePort", ports=[{"port": 80}]))
    port, address = old["spec"]["ports"][0]["nodePort"], old["spec"]["clusterIP"]
    new = service(
        type="ExternalName",
        externalName="x",
        clusterIP=address,
        clusterIPs=[address],
        ports=[{"port": 80, "nodePort": port}],
    )
    drop_foreign(new, old)
    world.write(new, old)
    assert new["spec"] == {"type": "ExternalName", "externalName": "x", "ports": [{"port": 80}]}
    world.write(service("t", type="NodePort", clusterIP=address, ports=[{"port": 1, "nodePort": port}]))


def test_what_the_client_gave_up_itself_takes_the_rest_along() -> None:
    world = World()
    old = world.write(service(ipFamilyPolicy="SingleStack"))
    families = old["spec"]["ipFamilies"]
    new = service(type="ExternalName", externalName="x", ipFamilies=families, ipFamilyPolicy="SingleStack")
    drop_foreign(new, old)
    assert new["spec"] == {"type": "ExternalName", "externalName": "x"}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["ClusterIP", "NodePort", "delete"])), max_size=40))
def test_no_two_services_ever_hold_the_same(steps: list[tuple[int, str]]) -> None:
    world = World()
    held: dict[str, dict[str, Any]] = {}
    for number, kind in steps:
        name = f"s{number}"
        if kind == "delete":
            if name in held:
                world.delete(name)
                del held[name]
            continue
        new = service(name, type=kind, ports=[{"port": 80}])
        if old := held.get(name):
            new["spec"]["clusterIP"] = old["spec"]["clusterIP"]
        with contextlib.suppress(StatusError):  # full: six NodePort Services want four ports
            held[name] = world.write(new, old)
        addresses = [address for one in held.values() for address in addresses_of(one)]
        ports = [port for one in held.values() for port in ports_of(one)]
        assert len(addresses) == len(set(addresses))
        assert len(ports) == len(set(ports))
        assert set(world.allocators._taken.addresses) == set(addresses)
        assert set(world.allocators._taken.ports) == set(ports)


def test_families_that_the_cluster_has_not() -> None:
    world = World()
    with pytest.raises(
        StatusError, match=r'spec\.ipFamilies\[0\]: Invalid value: "IPv6": not configured on this cluster'
    ):
        world.write(service(ipFamilies=["IPv6"]))
    with pytest.raises(StatusError, match="this cluster is not configured for dual-stack services"):
        world.write(service(ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4"]))
    world.write(service("preferred", ipFamilyPolicy="PreferDualStack", ipFamilies=["IPv4"]))
    both = {"clusterIP": "None", "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]}
    world.write(service("theirs", **both))
    with pytest.raises(StatusError, match="dual-stack"):
        world.write(service("ours", selector={"a": "b"}, **both))


def test_a_cluster_of_the_other_family() -> None:
    world = World(Ranges(ipaddress.ip_network("fd00::/112"), 30000, 30003))
    found = world.write(service())["spec"]
    assert found["ipFamilies"] == ["IPv6"]
    assert ipaddress.ip_address(found["clusterIP"]) in ipaddress.ip_network("fd00::/112")
    with pytest.raises(StatusError, match="not configured on this cluster"):
        world.write(service("four", ipFamilies=["IPv4"]))


def test_ports_are_chosen_in_turn() -> None:
    """While one waits for its turn, another server takes all ports but one: that one is what is left to choose."""

    async def trial() -> None:
        world = World()
        free = asyncio.Event()

        async def first() -> None:
            async with world.allocators.writing(SERVICES, service("first", type="NodePort", ports=[{"port": 1}]), None):
                await free.wait()  # and then is not stored

        async def second() -> int:
            wanted = service("second", type="NodePort", ports=[{"port": 1}])
            async with world.allocators.writing(SERVICES, wanted, None) as beside:
                assert [op.key.rpartition("/")[2] for op in beside][-1] == "servicenodeports"
                return int(wanted["spec"]["ports"][0]["nodePort"])

        async with asyncio.TaskGroup() as group:
            group.create_task(first())
            waiting = group.create_task(second())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for number in range(3):
                port = {"port": 1, "nodePort": 30000 + number}
                elsewhere = service(f"other{number}", type="NodePort", clusterIP=f"10.0.0.{number + 2}", ports=[port])
                world.rv += 1
                world.shelf.apply(("d", f"other{number}"), storage_bytes(elsewhere), world.rv)
            free.set()
        assert waiting.result() == 30003

    asyncio.run(trial())
