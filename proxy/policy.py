"""What of the configuration, the Node and this machine shapes the rules of a family, as one value.

The Node may not be there yet, or have no address of the family: then nothing is served on `primary`, no source range admits
the node itself, and everything else works. When it comes, the value differs, and the rules follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kube import core
from linux.iptables.rules import Family
from proxy.addresses import address, network
from proxy.config import PRIMARY, Config
from proxy.model import Address, IfLocal, Network, PodBridge, PodInterfaces, PodNetwork, Policy

_LIBERAL = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")


class Policies:
    """`node` is this Node as last known, `local` are this machine's addresses, `service_cidrs` what the API tells of them."""

    def __init__(
        self,
        config: Config,
        node: Callable[[], core.Node | None],
        local: Callable[[], Sequence[Address]],
        service_cidrs: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._config = config
        self._node = node
        self._local = local
        self._service_cidrs = service_cidrs

    def of(self, family: Family) -> Policy:
        config = self._config
        node_ip = self._node_ip(family)
        on_loopback = family is Family.V4 and config.serves_loopback
        return Policy(
            family=family,
            masquerade_bit=config.rules.masquerade_bit,
            masquerade_all=config.rules.masquerade_all,
            pods=self._pods(family),
            node_port_addresses=self._node_port_addresses(family, node_ip, on_loopback),
            localhost_node_ports=on_loopback,
            node_ip=node_ip,
            drop_invalid=not conntrack_is_liberal(),
            service_cidrs=tuple(_networks(self._service_cidrs(), family)),
        )

    def _pods(self, family: Family) -> IfLocal | None:
        config = self._config
        match config.detect_local_mode:
            case "BridgeInterface":
                return PodBridge(config.detect_local.bridge_interface)
            case "InterfaceNamePrefix":
                return PodInterfaces(config.detect_local.interface_name_prefix)
            case "NodeCIDR":
                found = next(_networks(pod_cidrs(self._node()), family), None)
            case _:
                found = next((each for each in config.cluster_networks if each.version == family), None)
        return PodNetwork(found) if found else None

    def _node_port_addresses(
        self, family: Family, node_ip: Address | None, on_loopback: bool
    ) -> tuple[Address, ...] | None:
        """None: every local one."""
        config = self._config
        if PRIMARY in config.node_port_addresses:
            return (node_ip,) if node_ip else ()
        mine = [each for each in config.node_port_networks if each.version == family]
        if not mine or any(
            each.prefixlen == 0 for each in mine
        ):  # without a CIDR a family is not restricted, as upstream
            return None
        found = {
            ip
            for ip in self._local()
            if ip.version == family and (on_loopback or not ip.is_loopback) and any(ip in each for each in mine)
        }
        return tuple(sorted(found, key=int))

    def _node_ip(self, family: Family) -> Address | None:
        config = self._config
        if config.node_ip is not None and config.node_ip.version == family:
            return config.node_ip
        node = self._node()
        for kind in ("InternalIP", "ExternalIP"):
            for entry in node.status.addresses if node else ():
                ip = address(entry.address) if entry.type == kind else None
                if ip is not None and ip.version == family:
                    return ip
        return None


def pod_cidrs(node: core.Node | None) -> tuple[str, ...]:
    """The ranges this Node's pods have their addresses from; empty until they are allocated."""
    if node is None:
        return ()
    return tuple(node.spec.pod_cidrs) or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())


def conntrack_is_liberal() -> bool:
    """Conntrack takes TCP segments outside its window for valid, so INVALID says nothing worth dropping."""
    try:
        return _LIBERAL.read_text().strip() == "1"
    except OSError:
        return False  # conntrack is not loaded yet; its default is strict


def _networks(texts: Iterable[str], family: Family) -> Iterator[Network]:
    return iter([found for text in texts if (found := network(text)) is not None and found.version == family])
