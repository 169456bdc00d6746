"""bandwidth: how fast a pod may receive ("ingress") and send ("egress"). Chained behind a plugin that made a veth pair.

| key                                        | meaning                                                                    |
|--------------------------------------------|----------------------------------------------------------------------------|
| runtimeConfig.bandwidth                    | from the runtime, e.g. a Pod's kubernetes.io/ingress-bandwidth; or the keys |
| ingressRate, ingressBurst                  | bits a second, and bits that may go at once; both or neither               |
| egressRate, egressBurst                    | the same for what the pod sends                                            |
| unshapedSubnets, shapedSubnets             | refused: all of a pod's traffic is shaped                                  |

A rate that stands in the configuration itself wins over the runtime's, as with the reference plugin; its names, numbers and
queueing disciplines are taken over too (``linux.traffic`` has how it works). The ifb carries network and container in its
alias, so that GC knows whose it is. Without a rate the result passes through.
"""

from __future__ import annotations

import errno

from cni.digest import digest
from cni.spec import (
    CHECK_FAILED,
    INVALID_CONFIGURATION,
    NOT_AVAILABLE,
    UNKNOWN_CONTAINER,
    UNSUPPORTED_FIELD,
    CniError,
    Interface,
    Result,
    previous_result,
    valid_attachments,
)
from linux.netlink import RefusedError
from linux.netns import enter, is_namespace
from linux.rtnetlink import Link, Socket
from linux.traffic import Bucket, Traffic, bucket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call
    from cni.codec import Json

_KEYS = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
_SUBNETS = ("unshapedSubnets", "shapedSubnets")
_MOST = 1 << 64
_ALIAS = "wherry bandwidth"


def add(call: Call, config: Mapping[str, Json]) -> Result:
    ingress, egress = _asked(config)
    result = previous_result(config)
    if result is None:
        raise CniError(
            INVALID_CONFIGURATION, "bandwidth needs prevResult: chain it behind a plugin that makes a veth pair"
        )
    if ingress is None and egress is None:
        return result
    with Socket() as host, Traffic() as traffic:
        port = _host_end(call, host, result)
        call.begin()
        if ingress is not None:
            traffic.limit(port.index, ingress)
        if egress is None:
            return result
        try:
            ifb = _make_ifb(call, config, host, traffic, port)
            traffic.limit(ifb.index, egress)
            traffic.redirect(port.index, ifb.index)
        except RefusedError:
            _remove(host, _name(config, call.container))
            raise
    interfaces = [*result.interfaces, Interface(ifb.name, ifb.mac)]
    return Result(interfaces, result.addresses, result.routes, result.dns)


def delete(call: Call, config: Mapping[str, Json]) -> None:
    """The ifb goes. The rest goes with the pod's link; but where prevResult names that, it is set free before: whoever is led to
    a link that is no more is heard by nobody. Needs neither namespace nor prevResult, nor limits that an ADD would take."""
    with Socket() as host, Traffic() as traffic:
        ifb = host.link(_name(config, call.container))
        for name in _named(config):
            port = host.link(name)
            if port is not None and port.kind == "veth":
                if ifb is not None and ifb.index in traffic.redirected(port.index):
                    traffic.let_pass(port.index)
                if traffic.limit_of(port.index) is not None:
                    traffic.unlimit(port.index)
        _remove(host, _name(config, call.container))


def _named(config: Mapping[str, Json]) -> list[str]:
    """The node's links that prevResult names, if there is one that can be read."""
    try:
        result = previous_result(config)
    except CniError:
        return []
    return [each.name for each in result.interfaces if not each.sandbox] if result is not None else []


def check(call: Call, config: Mapping[str, Json]) -> None:
    ingress, egress = _asked(config)
    result = previous_result(config)
    if result is None:
        raise CniError(INVALID_CONFIGURATION, "CHECK needs prevResult, the result of the ADD")
    if ingress is None and egress is None:
        return
    with Socket() as host, Traffic() as traffic:
        port = _host_end(call, host, result)
        found = _differences(f"{port.name}, to the pod", ingress, traffic.limit_of(port.index))
        if egress is not None:
            ifb = host.link(_name(config, call.container))
            if ifb is None:
                found.append(f"the link {_name(config, call.container)}, through which the pod sends, is gone")
            else:
                found += _differences(f"{ifb.name}, from the pod", egress, traffic.limit_of(ifb.index))
                if ifb.index not in traffic.redirected(port.index):
                    found.append(f"what {port.name} receives is not led through {ifb.name}")
    if found:
        raise CniError(CHECK_FAILED, found[0], "; ".join(found[1:]))


def status(call: Call, config: Mapping[str, Json]) -> None:
    """Whether the configuration can be used; that the kernel has tbf and ifb is seen when they are asked for."""
    del call
    _asked(config)


def gc(call: Call, config: Mapping[str, Json]) -> None:
    del call
    network = str(config["name"])
    valid = {container for container, _ in valid_attachments(config)}
    with Socket() as host, Traffic() as traffic:
        for name, alias in traffic.aliases().items():
            owner, _, container = alias.removeprefix(_ALIAS + " ").partition(" ")
            if alias.startswith(_ALIAS + " ") and owner == network and container not in valid:
                _remove(host, name)


def _asked(config: Mapping[str, Json]) -> tuple[Bucket | None, Bucket | None]:
    """What to make of it: for what the pod receives, and for what it sends."""
    runtime = config.get("runtimeConfig") or {}
    said: Mapping[str, Json] = {}
    if any(key in config for key in (*_KEYS, *_SUBNETS)):
        said = config
    elif isinstance(runtime, dict) and isinstance(told := runtime.get("bandwidth") or {}, dict):
        said = told
    else:
        raise CniError(INVALID_CONFIGURATION, "runtimeConfig.bandwidth must be an object with rates and bursts")
    for key in _SUBNETS:
        if said.get(key):
            raise CniError(
                UNSUPPORTED_FIELD, f"{key} is not supported: all of a pod's traffic is shaped; remove the key"
            )
    return _pair(said, "ingress"), _pair(said, "egress")


def _pair(said: Mapping[str, Json], way: str) -> Bucket | None:
    rate, burst = (_number(said, f"{way}{what}") for what in ("Rate", "Burst"))
    if not rate and not burst:
        return None
    if not rate or not burst:
        here, lacking = (f"{way}Burst", f"{way}Rate") if burst else (f"{way}Rate", f"{way}Burst")
        raise CniError(INVALID_CONFIGURATION, f"{here} is nothing without {lacking}: set both, in bits")
    if rate < 8 or burst < 8:
        raise CniError(INVALID_CONFIGURATION, f"{way}Rate and {way}Burst are bits: less than a byte cannot be had")
    if burst // 8 >= 1 << 32:
        raise CniError(INVALID_CONFIGURATION, f"{way}Burst must be less than 4 GiB (in bits: {8 << 32}), not {burst}")
    return bucket(rate // 8, burst // 8)


def _number(said: Mapping[str, Json], key: str) -> int:
    value = said.get(key) or 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST:
        raise CniError(INVALID_CONFIGURATION, f"{key} must be a number of bits, not {value!r}")
    return value


def _host_end(call: Call, host: Socket, result: Result) -> Link:
    """The node's end of the container's pair: the peer of its link, and named by the plugin before."""
    if not is_namespace(call.netns):
        raise CniError(
            UNKNOWN_CONTAINER, f"network namespace {call.netns} of container {call.container} does not exist"
        )
    with enter(call.netns):
        pod = Socket()
    with pod:
        inner = pod.link(call.ifname)
    if inner is None or not inner.peer or inner.kind != "veth":
        raise CniError(
            NOT_AVAILABLE, f"{call.ifname} of container {call.container} has no end on the node to be shaped"
        )
    port = host.link_at(inner.peer)
    named = {each.name for each in result.interfaces if not each.sandbox}
    if port is None or port.name not in named:
        raise CniError(
            INVALID_CONFIGURATION,
            f"prevResult names no link of the node that is the other end of {call.ifname}: it names {sorted(named)}",
        )
    return port


def _make_ifb(call: Call, config: Mapping[str, Json], host: Socket, traffic: Traffic, port: Link) -> Link:
    name = _name(config, call.container)
    _remove(host, name)  # of an ADD that was cut short
    try:
        traffic.create_ifb(name, port.mtu, f"{_ALIAS} {config['name']} {call.container}")
    except RefusedError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        raise CniError(NOT_AVAILABLE, "this kernel has no ifb (module ifb): a pod's egress cannot be limited") from None
    ifb = host.link(name)
    if ifb is None:
        raise CniError(NOT_AVAILABLE, f"{name} disappeared while it was being set up")
    return ifb


def _remove(host: Socket, name: str) -> None:
    link = host.link(name)
    if link is not None:
        try:
            host.delete_link(link.index)
        except RefusedError as error:
            if error.errno != errno.ENODEV:
                raise


def _name(config: Mapping[str, Json], container: str) -> str:
    return "bwp" + digest(f"{config['name']}{container}")[:12]


def _differences(what: str, wanted: Bucket | None, seen: Bucket | None) -> list[str]:
    if wanted is None or wanted == seen:
        return []
    return [f"{what}: {seen or 'no token bucket'} instead of {wanted}"]
