"""For every backend and family the plan converges: from any state of the kernel, cut short at any step; and who stays, is reached
at every step."""

from dataclasses import replace
from functools import cache
from ipaddress import ip_interface
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux.iptables.rules import Family
from overlay.model import (
    LOOPBACK,
    OURS,
    ROUTE_PROTOCOL,
    Fdb,
    Lease,
    LocalAddress,
    Route,
    RouteKind,
    Seen,
    SeenDevice,
    VxlanDevice,
    Wanted,
    WireGuardDevice,
    host,
)
from overlay.netconf import BackendSettings
from tests.unit.overlay import kernel, nodes
from tests.unit.overlay.nodes import BACKENDS, lease, mac
from tests.unit.overlay.test_plan import carried_out, steps_to

_T = TypeVar("_T")


def leases(family: Family, backend: BackendSettings) -> st.SearchStrategy[list[Lease]]:
    """Nodes 2 to 5, each with one of two MACs or keys of its own, at one of its own two addresses."""

    def one(number: int, second: bool, moved: bool) -> Lease:
        return lease(
            number,
            family,
            backend,
            data=number + 0x10 if second else None,
            at=number + 0x20 if moved else None,
        )

    return st.lists(
        st.builds(one, st.integers(2, 5), st.booleans(), st.booleans()), max_size=4, unique_by=lambda found: found.node
    )


@cache
def wishes(backend: str, family: Family) -> st.SearchStrategy[Wanted]:
    def wished(peers: list[Lease], direct: list[int], mtu: int, blackhole: bool) -> Wanted:
        return nodes.wished(peers, BACKENDS[backend], family, direct=direct, mtu=mtu, blackhole=blackhole).wanted

    everyone = [number + more for number in range(2, 6) for more in (0, 0x20)]
    direct = st.just(everyone) if backend == "host-gw" else st.lists(st.sampled_from(everyone))
    return st.builds(wished, leases(family, BACKENDS[backend]), direct, st.sampled_from([1500, 9000]), st.booleans())


def odd_routes(family: Family) -> st.SearchStrategy[Route]:
    return st.builds(
        lambda number, via, device, onlink, protocol, metric, kind: Route(
            nodes.subnet(number, family),
            (nodes.subnet(via, family).network_address if device == OURS else nodes.host(via, family))
            if kind is RouteKind.UNICAST
            else None,
            device if kind is RouteKind.UNICAST else OURS,
            onlink,
            protocol,
            metric,
            kind,
        ),
        st.integers(2, 6),
        st.integers(2, 9),
        st.sampled_from([OURS, nodes.UNDERLAY, 7]),
        st.booleans(),
        st.sampled_from([87, 3, 2]),
        st.sampled_from([0, 1024, 100, 5000]),
        st.sampled_from([RouteKind.UNICAST, RouteKind.UNICAST, RouteKind.BLACKHOLE]),
    )


def odd_addresses(family: Family) -> st.SearchStrategy[LocalAddress]:
    """On our device and elsewhere; those of peers on loopback, since with one on another interface the wish would be another."""
    gateways = [nodes.subnet(number, family).network_address for number in (1, 2, 3)]
    return st.builds(
        lambda gateway, wide, device: LocalAddress(
            ip_interface(f"{gateway}/{24 if gateway.version == 4 else 64}")
            if wide and (device == OURS or gateway == gateways[0])
            else host(gateway),
            device,
        ),
        st.sampled_from(gateways),
        st.booleans(),
        st.sampled_from([OURS, LOOPBACK]),
    )


@st.composite
def states(draw: st.DrawFn, backend: str, family: Family) -> Seen:
    """What another wish left behind, some of it gone, with damage of every kind."""
    past = draw(wishes(backend, family))
    seen = carried_out(Seen(), steps_to(past, Seen()))
    keep = draw(st.randoms(use_true_random=False))
    device = seen.device
    if device and isinstance(device.device, VxlanDevice):
        changed = draw(
            st.sampled_from(
                [
                    device.device,
                    device.device,
                    replace(device.device, vni=2),
                    replace(device.device, mtu=1400),
                    replace(device.device, mac=mac(0xFE)),
                    replace(device.device, underlay=3),
                    None,
                ]
            )
        )
        device = draw(st.none() | st.builds(SeenDevice, st.just(5), st.just(changed), st.booleans(), st.booleans()))
    elif device and isinstance(device.device, WireGuardDevice):
        changed_key = draw(st.sampled_from([device.device, replace(device.device, private_key="x", port=9), None]))
        device = draw(st.none() | st.builds(SeenDevice, st.just(5), st.just(changed_key), st.booleans(), st.booleans()))

    def some(values: frozenset[_T]) -> frozenset[_T]:
        return frozenset(value for value in sorted(values, key=str) if keep.random() < 0.7)

    fdb = st.frozensets(
        st.builds(
            Fdb,
            st.sampled_from([mac(number) for number in (2, 3, 0x12)]),
            st.sampled_from([nodes.host(number, family) for number in (2, 3, 9)]),
            st.booleans(),
        ),
        max_size=3,
    )
    return kernel.settled(
        Seen(
            device=device,
            strays=draw(st.sampled_from([(), (), ((8, "other"),), ((7, "odd"),)])),
            addresses=some(seen.addresses) | draw(st.frozensets(odd_addresses(family), max_size=2)),
            neighbours=some(seen.neighbours),
            fdb=some(seen.fdb) | (draw(fdb) if seen.fdb else frozenset()),
            peers=some(seen.peers),
            routes=some(seen.routes) | draw(st.frozensets(odd_routes(family), max_size=4)),
        )
    )


def converged(wish: Wanted, seen: Seen) -> Seen:
    """Passes until nothing is left to do: one, or two where routes had rivals that the kernel cannot tell apart."""
    for _ in range(3):
        seen = carried_out(seen, steps_to(wish, seen))
    assert steps_to(wish, seen) == []
    return seen


def ours(seen: Seen, wish: Wanted) -> Seen:
    """What counts: without the device's index, and without what is none of our business."""
    routes = frozenset(one for one in seen.routes if one in wish.routes or one.protocol == ROUTE_PROTOCOL)
    addresses = frozenset(one for one in seen.addresses if one.device == OURS)
    device = replace(seen.device, index=0) if seen.device else None
    return replace(seen, device=device, routes=routes, addresses=addresses)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_from_any_kernel_state_and_cut_short_anywhere_the_same_end_is_reached(
    backend: str, family: Family, data: st.DataObject
) -> None:
    wish = data.draw(wishes(backend, family))
    seen = data.draw(states(backend, family))
    fresh = ours(converged(wish, Seen()), wish)
    end = converged(wish, seen)
    assert ours(end, wish) == fresh
    for route in wish.routes:
        if route.kind is RouteKind.UNICAST:
            assert kernel.way(end, route.destination) == kernel.way(fresh, route.destination)
    steps = steps_to(wish, seen)
    cut = data.draw(st.integers(0, len(steps)))
    assert ours(converged(wish, carried_out(seen, steps[:cut])), wish) == fresh


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_peer_that_stays_is_reached_at_its_old_or_its_new_place_at_every_step(
    backend: str, family: Family, data: st.DataObject
) -> None:
    everyone = [number + more for number in range(2, 6) for more in (0, 0x20)]

    def seen_of(peers: list[Lease], direct: list[int]) -> tuple[Wanted, Seen]:
        wish = nodes.wished(peers, BACKENDS[backend], family, direct=direct).wanted
        return wish, carried_out(Seen(), steps_to(wish, Seen()))

    peers = leases(family, BACKENDS[backend])
    direct = st.just(everyone) if backend == "host-gw" else st.lists(st.sampled_from(everyone))
    before, after = data.draw(peers), data.draw(peers)
    _, seen = seen_of(before, data.draw(direct))
    wish, end = seen_of(after, data.draw(direct))
    staying = {lease.subnet for lease in before} & {lease.subnet for lease in after}
    allowed = {span: {kernel.way(seen, span), kernel.way(end, span)} for span in staying}
    for step in steps_to(wish, seen):
        seen = kernel.after(seen, step)
        for span in staying:
            assert kernel.way(seen, span) in allowed[span] - {None}
