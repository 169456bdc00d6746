"""What ip and bridge say of an overlay in a network namespace: values to compare whole, before and after."""

import json
import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, NamedTuple

DEVICES = {4: "flannel.{vni}", 6: "flannel-v6.{vni}"}

_QUESTIONS = (
    "ip -d -j link show",
    "ip -j addr show",
    "ip -j -4 route show",
    "ip -j -6 route show",
    "ip -j -4 neigh show",
    "ip -j -6 neigh show",
    "bridge -j fdb show",
)


_PODS = ("10.244.", "fd10:244:")
_COUNTER = re.compile(r"counter packets \d+ bytes \d+")


class Tunnel(NamedTuple):
    """A VXLAN device of any kind; what a plain veth of that name would not have is None."""

    mac: str
    mtu: int
    vni: int | None
    port: int | None
    local: str | None
    underlay: str | None
    learning: bool | None
    up: bool
    alias: str | None


def kernel(run: Callable[..., str], vni: int = 1, protocol: str = "87") -> dict[str, dict[str, Any]]:
    """By family ("4", "6"): the device of that family, all that hangs on it, and routes of ours on others (`elsewhere`);
    and whatever else leads (`beside`) or answers on this node in the pods' network.

    `run` runs a program in the namespace. What was announced meanwhile may have been seen by half.
    """
    parts = [
        json.loads(part.strip() or "[]")
        for part in run("sh", "-c", "; echo @@; ".join(_QUESTIONS), check=False).split("@@")
    ]
    links, addresses, *routes, neighbours4, neighbours6, fdb = parts
    found = {}
    for version, route, neighbours in ((4, routes[0], neighbours4), (6, routes[1], neighbours6)):
        name = DEVICES[version].format(vni=vni)
        link = next((one for one in links if one.get("ifname") == name), None)
        found[str(version)] = {
            "device": _tunnel(link) if link else None,
            "others": sorted(
                one["ifname"]
                for one in links
                if one.get("ifalias") == "wherry overlay" and one["ifname"] not in _names(vni)
            ),
            "addresses": sorted(_addresses(addresses, name)),
            "routes": sorted(_route(one) for one in route if one.get("dev") == name),
            "elsewhere": sorted(
                f"{_route(one)} dev {one.get('dev')}"
                for one in route
                if one.get("protocol") == protocol and one.get("dev") != name
            ),
            "beside": sorted(
                f"{_route(one)} dev {one.get('dev')}"
                for one in route
                if one["dst"].startswith(_PODS) and one.get("protocol") != protocol and one.get("dev") != name
            ),
            "answering": sorted(
                f"{one['ifname']} {address}"
                for one in addresses
                for address in _addresses([one], one["ifname"])
                if address.startswith(_PODS[version == 6]) and one["ifname"] != name
            ),
            "neighbours": sorted(
                f"{one['dst']} {one.get('lladdr')} {' '.join(one['state'])}"
                for one in neighbours
                # Without a MAC it is the kernel's own note that nobody answered it while a damage lasted, and leads nowhere.
                if one.get("dev") == name and "lladdr" in one
            ),
            "fdb": sorted(_fdb(one) for one in fdb if one.get("ifname") == name and "dst" in one),
        }
    return found


def _names(vni: int) -> set[str]:
    return {name.format(vni=vni) for name in DEVICES.values()}


def _tunnel(link: dict[str, Any]) -> Tunnel:
    data = link.get("linkinfo", {}).get("info_data") or {}
    return Tunnel(
        mac=link["address"],
        mtu=link["mtu"],
        vni=data.get("id"),
        port=data.get("port"),
        local=data.get("local", data.get("local6")),
        underlay=data.get("link"),
        learning=data.get("learning"),
        up="UP" in link["flags"],
        alias=link.get("ifalias"),
    )


def _addresses(links: list[dict[str, Any]], name: str) -> list[str]:
    """Of either family: a stray one of the other family counts too."""
    return [
        f"{one['local']}/{one['prefixlen']}"
        for link in links
        if link.get("ifname") == name
        for one in link["addr_info"]
        if "local" in one
    ]


def _route(route: dict[str, Any]) -> str:
    """`10.244.2.0/24 via 10.244.2.0 proto 87 onlink`, with a metric or a type where it has an unusual one."""
    destination = "default" if route["dst"] == "default" else str(ip_network(route["dst"]))
    words = [route.get("type", ""), destination]
    words += ["via", route["gateway"]] if "gateway" in route else []
    words += ["proto", str(route.get("protocol"))]
    words += ["metric", str(route["metric"])] if route.get("metric") not in (None, 1024) else []
    words += sorted(flag for flag in route.get("flags", []) if flag == "onlink")
    return " ".join(word for word in words if word)


def _fdb(entry: dict[str, Any]) -> str:
    extra = [f"{key} {entry[key]}" for key in ("port", "vni", "via") if key in entry]
    return " ".join((entry["mac"], entry["dst"], entry.get("state", ""), *extra)).strip()


def rules(run: Callable[..., str]) -> list[str]:
    """Every rule of iptables (the backend that plain `iptables` is) and of flannel's own nft tables, in order."""
    questions = (
        *("iptables-save", "ip6tables-save"),
        *("nft list table ip flannel-ipv4 2>&-", "nft list table ip6 flannel-ipv6 2>&-"),
    )
    lines = run("sh", "-c", "; ".join(questions), check=False).splitlines()
    return [_COUNTER.sub("counter", line.strip()) for line in lines if line.startswith(("-A", "\t"))]
