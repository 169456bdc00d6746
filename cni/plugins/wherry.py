"""wherry-cni: the cluster's own network in a few keys. It is bridge and host-local, told what a Kubernetes node needs.

| key              | default                   | becomes                                                                    |
|------------------|---------------------------|----------------------------------------------------------------------------|
| bridge           | cni0                      | bridge                                                                     |
| mtu              | the overlay's, else 1500  | mtu                                                                        |
| isGateway        | true                      | isGateway; the bridge takes each range's first address                     |
| isDefaultGateway | as isGateway              | isDefaultGateway                                                           |
| hairpinMode      | false                     | hairpinMode: a pod may reach itself through a Service                      |
| ipMasq           | false                     | refused when true: the overlay masquerades                                 |
| dataDir          | /var/lib/cni/networks     | ipam.dataDir                                                               |
| subnet           |                           | ipam.ranges: "10.244.1.0/24", or one of each family with a comma between, or: |
| subnetFile       | /run/flannel/subnet.env   | the file in which the overlay says it, and the whole networks' routes      |
| routes           | []                        | ipam.routes                                                                |
| dns              | {}                        | dns                                                                        |

forceAddress is set: after the node's range changed, the bridge's old address goes. Any key but these and the specification's
own is refused: a misspelt key that is silently ignored is found weeks later.
"""

from __future__ import annotations

from cni.call import Call
from cni.config import BRIDGE, DATA_DIR, SUBNET_FILE, flag, invalid, mtu, path, short, text
from cni.model import SubnetEnv, of_family, parse_subnet, parse_subnet_env
from cni.plugins import bridge
from cni.spec import (
    INVALID_CONFIGURATION,
    IO_FAILURE,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    UNSUPPORTED_FIELD,
    CniError,
    is_link_name,
)
from linux.rtnetlink import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.codec import Json
    from cni.model import Subnet
    from cni.spec import Result

_KEYS = frozenset({"cniVersion", "name", "type", "dns", "capabilities", "runtimeConfig", "agent", "prevResult", "args"})
_KEYS |= {"bridge", "mtu", "isGateway", "isDefaultGateway", "hairpinMode", "ipMasq", "routes"}
_KEYS |= {"dataDir", "subnet", "subnetFile"}
_SHORTEST = 8  # prefix length


def add(call: Call, config: Mapping[str, Json]) -> Result:
    return bridge.add(_own(call), translated(config))


def delete(call: Call, config: Mapping[str, Json]) -> None:
    """Needs no more of the configuration than where the reservations are: what was broken after the ADD does not matter."""
    ipam = {"type": "host-local", "dataDir": path(config, "dataDir", DATA_DIR)}
    bridge.delete(_own(call), {"cniVersion": config["cniVersion"], "name": config["name"], "ipam": ipam})


def check(call: Call, config: Mapping[str, Json]) -> None:
    bridge.check(_own(call), translated(config))


def status(call: Call, config: Mapping[str, Json]) -> None:
    try:
        wanted = translated(config)
    except CniError as error:
        if error.code == TRY_AGAIN_LATER:
            raise CniError(NOT_AVAILABLE, error.message) from None
        raise
    bridge.status(_own(call), wanted)


def gc(call: Call, config: Mapping[str, Json]) -> None:
    """Of the ranges GC needs nothing: it goes by the reservations' own files."""
    known = {key: value for key, value in config.items() if key in {"cniVersion", "name", "bridge"} or "/" in key}
    ipam = {"type": "host-local", "dataDir": path(config, "dataDir", DATA_DIR)}
    bridge.gc(_own(call), {**known, "ipam": ipam})


def translated(config: Mapping[str, Json]) -> dict[str, Json]:
    """The configuration of ``bridge`` that this one stands for; CniError names the key and the remedy, and has code 11 as long
    as the overlay has not said this node's range."""
    _refuse_strange_keys(config)
    gateway = flag(config, "isGateway", True)
    default_route = flag(config, "isDefaultGateway", gateway)
    if default_route and not gateway:
        raise invalid("isDefaultGateway", True, "contradicts isGateway false")
    name = text(config, "bridge", BRIDGE)
    if not is_link_name(name):
        raise invalid("bridge", name, "must name an interface in at most 15 bytes")
    size, hairpin, routes = _mtu(config), flag(config, "hairpinMode"), _routes(config.get("routes", []))
    folder = path(config, "dataDir", DATA_DIR)
    lease = _lease(config)
    gateways = {each.bits: unpacked(each.packed(each.network + 1)) for each in lease.subnets}
    for network in lease.networks if gateway else ():
        routes.setdefault(str(network), gateways.get(network.bits, ""))
    listed = [
        {"dst": destination, "gw": via or gateways.get(_bits(destination), "")} for destination, via in routes.items()
    ]
    default = {"0.0.0.0/0", "::/0"} if default_route else set()
    return {
        **{key: config[key] for key in _KEYS & config.keys() if key in _PASSED_ON},
        **{key: value for key, value in config.items() if key.startswith("cni.dev/")},
        "type": "bridge",
        "bridge": name,
        "isGateway": gateway,
        "isDefaultGateway": default_route,
        "forceAddress": True,
        "hairpinMode": hairpin,
        "mtu": size or lease.mtu,
        "ipam": {
            "type": "host-local",
            "dataDir": folder,
            "ranges": [[{"subnet": str(each)}] for each in lease.subnets],
            "routes": [each for each in listed if each["gw"] and each["dst"] not in default],
        },
    }


_PASSED_ON = {"cniVersion", "name", "dns", "runtimeConfig", "prevResult", "args"}


def _own(call: Call) -> Call:
    return call.asking(call.command, own=True)


def _refuse_strange_keys(config: Mapping[str, Json]) -> None:
    for key, value in config.items():
        if key not in _KEYS and not key.startswith("cni.dev/"):
            raise CniError(UNSUPPORTED_FIELD, f"wherry-cni does not know the key {key!r} (value {short(value)})")
    flag(config, "agent")  # cni.alone reads it
    if flag(config, "ipMasq"):
        raise CniError(
            UNSUPPORTED_FIELD,
            "ipMasq true is not supported: the overlay masquerades what leaves the pods; remove ipMasq",
        )
    if "subnet" in config and "subnetFile" in config:
        raise invalid("subnetFile", config["subnetFile"], "and subnet are both given: keep one")


def _lease(config: Mapping[str, Json]) -> SubnetEnv:
    """What this node may hand out."""
    if "subnet" in config:
        said = text(config, "subnet", "")
        try:
            subnets = [_roomy(parse_subnet(each.strip())) for each in said.split(",")]
        except ValueError as error:
            raise CniError(INVALID_CONFIGURATION, f"subnet: {error}") from None
        if len({each.bits for each in subnets}) < len(subnets):
            raise invalid("subnet", said, "must have at most one range of each family")
        return SubnetEnv((), subnets, 0, None)
    return read_subnet_file(path(config, "subnetFile", SUBNET_FILE))


def read_subnet_file(name: str) -> SubnetEnv:
    """What the overlay says of this node; code 11 as long as it has not."""
    try:
        with open(name, encoding="utf-8") as file:
            found = parse_subnet_env(file.read())
        for each in found.subnets:
            _roomy(each)
    except FileNotFoundError:
        raise CniError(
            TRY_AGAIN_LATER, f"{name} is not there yet: the overlay writes it when this node has its subnet"
        ) from None
    except ValueError as error:
        raise CniError(INVALID_CONFIGURATION, f"{name}: {error}") from None
    except OSError as error:
        raise CniError(IO_FAILURE, f"cannot read the subnet from {name}: {error}") from None
    return found


def _roomy(subnet: Subnet) -> Subnet:
    """The range, if it leaves room for a gateway and a pod, and is not a slip of the pen."""
    if not _SHORTEST <= subnet.length <= subnet.bits - 2:
        raise ValueError(f"{subnet} must be a /{_SHORTEST} to a /{subnet.bits - 2}")
    return subnet


def _mtu(config: Mapping[str, Json]) -> int:
    asked = mtu(config)
    if 0 < asked < 576:
        raise invalid("mtu", asked, "must be 576 to 65535, or 0 for the overlay's")
    return asked


def _routes(listed: Json) -> dict[str, str]:
    """destination -> gateway, "" for the bridge's."""
    if not isinstance(listed, list):
        raise invalid("routes", listed, "must be a list")
    found = {}
    for place, each in enumerate(listed):
        if not isinstance(each, dict) or not each.keys() <= {"dst", "gw"}:
            raise invalid(f"routes[{place}]", each, 'must be {"dst": "10.0.0.0/8"} with an optional "gw"')
        destination, gateway = text(each, "dst", ""), text(each, "gw", "")
        try:
            subnet = parse_subnet(destination)
            of_family(subnet, gateway)
        except ValueError as error:
            raise CniError(INVALID_CONFIGURATION, f"routes[{place}]: {error}") from None
        found[str(subnet)] = gateway
    return found


def _bits(destination: str) -> int:
    return len(packed(destination.partition("/")[0])) * 8
