"""bridge: the pod's end of a veth pair in its namespace, the other on a bridge, addresses by the IPAM plugin.

As the reference plugin: its keys (``cni.config``), its order, its result. Where it leaves something behind, this does not: a
failed ADD takes back the pair, the addresses and the rules; DEL frees the addresses even when the kernel refuses the rest.
DEL's order is link, addresses, rules: an address is free when nothing answers to it any more.
"""

from __future__ import annotations

import os

from cni import apply, delegate, plan
from cni.config import parse_bridge
from cni.spec import (
    CHECK_FAILED,
    INVALID_CONFIGURATION,
    LIMITED_CONNECTIVITY,
    TRY_AGAIN_LATER,
    CniError,
    Interface,
    Result,
    previous_result,
    valid_attachments,
)
from linux.rtnetlink import Socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call
    from cni.codec import Json
    from cni.model import Bridge


def add(call: Call, config: Mapping[str, Json]) -> Result:
    wanted = parse_bridge(call, config)
    netns = apply.open_namespace(call)
    try:
        with Socket() as host:
            bridge = apply.ensure_bridge(host, wanted)
            apply.create_pair(host, call, wanted, netns, bridge.index)
            given: Result | None = None
            try:
                port = apply.plug_in(host, call, wanted)
                given = delegate.add(wanted.ipam, call, config) if wanted.ipam else Result()
                return _wire(host, call, wanted, given, (bridge.index, port.index), netns)
            except BaseException:
                _undo(call, wanted, config, given is not None)
                raise
    finally:
        os.close(netns)


def delete(call: Call, config: Mapping[str, Json]) -> None:
    """What ADD would refuse does not matter here: a configuration broken since must not keep an address from being freed."""
    ipam = config.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) else None
    try:
        apply.detach(call)
    finally:
        try:
            if isinstance(kind, str) and kind:
                delegate.delete(kind, call, config)
        finally:
            if config.get("ipMasq") is True:
                from cni import masquerade

                backend = str(config.get("ipMasqBackend") or "")
                masquerade.remove(call, str(config["name"]), backend, _families(config))


def check(call: Call, config: Mapping[str, Json]) -> None:
    wanted, previous = parse_bridge(call, config), previous_result(config)
    if previous is None:
        raise CniError(INVALID_CONFIGURATION, "CHECK needs prevResult, the result of the ADD")
    _, outer, _ = plan.attached(call, previous, wanted)
    host_link = outer.name if outer is not None else plan.host_link(call.container, call.ifname)
    netns = apply.open_namespace(call)
    try:
        if wanted.ipam:
            delegate.check(wanted.ipam, call, config)
        found = plan.differences(call, wanted, previous, apply.observe(call, wanted, host_link, netns))
    finally:
        os.close(netns)
    if wanted.masquerade:
        from cni import masquerade

        found += masquerade.differences(call, wanted, previous)
    if found:
        raise CniError(CHECK_FAILED, found[0], "; ".join(found[1:]))


def status(call: Call, config: Mapping[str, Json]) -> None:
    wanted = parse_bridge(call, config)
    with Socket() as host:
        link = host.link(wanted.name)
        if link is not None and link.kind != "bridge":
            raise CniError(LIMITED_CONNECTIVITY, f"bridge {wanted.name} is a {link.kind or 'physical'} link: remove it")
    if wanted.masquerade:
        from cni import masquerade

        masquerade.status(call, wanted.backend)
    if wanted.ipam:
        delegate.status(wanted.ipam, call, config)


def gc(call: Call, config: Mapping[str, Json]) -> None:
    wanted, valid = parse_bridge(call, config), valid_attachments(config)
    try:
        apply.collect(wanted.network, valid)
    finally:
        try:
            if wanted.ipam:
                delegate.gc(wanted.ipam, call, config)
        finally:
            if wanted.masquerade:
                from cni import masquerade

                masquerade.collect(call, wanted.network, wanted.backend, valid)


def _wire(host: Socket, call: Call, wanted: Bridge, given: Result, links: tuple[int, int], netns: int) -> Result:
    if wanted.ipam and not given.addresses:
        raise CniError(INVALID_CONFIGURATION, f"the IPAM plugin {wanted.ipam!r} gave no address")
    found = plan.layout(wanted, given)
    # Addresses of our ledger are one container's at a time; the MAC may follow them. Others' (dhcp) may know the pod by its MAC.
    follows = wanted.ipam == "host-local" and not wanted.mac
    mac = plan.mac_of(found.addresses[0][0]) if follows else b""
    mac_text, mtu = apply.configure(call, wanted, found, plan.ways(found), mac, netns)
    bridge, more = host.link_at(links[0]), []
    if found.gateways and bridge is not None:
        home = apply.vlan_gateway(host, wanted, bridge) if wanted.vlan else bridge
        apply.own_gateways(host, home, wanted, found)
        if home is not bridge:
            more.append(Interface(home.name, home.mac, mtu=home.mtu))
    if wanted.masquerade:
        from cni import masquerade

        masquerade.setup(call, wanted, found)
    port = host.link_at(links[1])
    if not wanted.down and port is not None:
        port = apply.await_carrier(host, port)
    bridge = host.link_at(links[0])
    if bridge is None or port is None:
        raise CniError(TRY_AGAIN_LATER, f"bridge {wanted.name} or its port was removed by somebody else: try again")
    interfaces = [
        Interface(bridge.name, bridge.mac, mtu=bridge.mtu),
        Interface(port.name, port.mac, mtu=port.mtu),
        Interface(call.ifname, mac_text, call.netns, mtu=mtu),
        *more,
    ]
    return plan.result(wanted, found, interfaces, given)


def _families(config: Mapping[str, Json]) -> list[int]:
    """Those of the addresses that the container had, both where that is not known: each costs a process."""
    try:
        previous = previous_result(config)
    except CniError:
        previous = None
    return sorted({6 if ":" in each.address else 4 for each in (previous.of_container() if previous else ())}) or [4, 6]


def _undo(call: Call, wanted: Bridge, config: Mapping[str, Json], addressed: bool) -> None:
    """Takes back what an ADD has made that failed later; in DEL's order."""
    try:
        apply.detach(call)
        if addressed and wanted.masquerade:
            from cni import masquerade

            masquerade.remove(call, wanted.network, wanted.backend)
    except (CniError, OSError) as error:  # the first failure is the one to report; the runtime's DEL tries this again
        os.write(2, f"bridge: undoing the failed ADD of {call.container}: {error}\n".encode())
    finally:
        if addressed and wanted.ipam:
            delegate.undo(wanted.ipam, call, config)
