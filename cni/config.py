"""The configuration of ``wherry-cni``, checked at the door.

| key                        | default                    | meaning                                                        |
|----------------------------|----------------------------|----------------------------------------------------------------|
| cniVersion, name, type     | required                   | the specification's                                            |
| bridge                     | cni0                       | the bridge, made when missing                                  |
| mtu                        | the overlay's, else 1500   | of both ends of the pod's link                                 |
| isGateway                  | true                       | the bridge takes the subnet's first address and forwards       |
| isDefaultGateway           | as isGateway               | the pod's default route points to it                           |
| hairpinMode                | false                      | a pod may reach itself through a Service                       |
| ipMasq                     | false                      | refused when true: the overlay masquerades                     |
| dataDir                    | /var/lib/cni/networks      | where reservations live, in Go host-local's own layout         |
| subnet                     |                            | the range, or:                                                 |
| subnetFile                 | /run/flannel/subnet.env    | the file in which the overlay says it                          |
| routes                     | []                         | more routes of the pod: {"dst": "10.0.0.0/8", "gw": "..."}     |
| dns                        | {}                         | passed through to the result                                   |

``capabilities``, ``runtimeConfig``, ``prevResult`` and ``args`` are the specification's and need no reader here. Any other
key is refused: a misspelt key that is silently ignored is found weeks later.
"""

from __future__ import annotations

from cni.codec import encode
from cni.model import Config, Lease, Subnet, parse_address, parse_interface, parse_subnet, subnet_of
from cni.spec import (
    INVALID_CONFIGURATION,
    IO_FAILURE,
    TRY_AGAIN_LATER,
    UNSUPPORTED_FIELD,
    CniError,
    Route,
    is_link_name,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.codec import Json

SUBNET_FILE = "/run/flannel/subnet.env"
DATA_DIR = "/var/lib/cni/networks"
BRIDGE = "cni0"

_KEYS = frozenset({"cniVersion", "name", "type", "dns", "capabilities", "runtimeConfig", "agent", "prevResult", "args"})
_KEYS |= {"bridge", "mtu", "isGateway", "isDefaultGateway", "hairpinMode", "ipMasq", "routes"}
_KEYS |= {"dataDir", "subnet", "subnetFile"}
_SHORTEST, _LONGEST = 8, 30  # prefix lengths that leave room for a gateway and a pod


def parse_config(keys: Mapping[str, Json]) -> Config:
    """The network of this configuration; CniError names the key and the remedy."""
    for key, value in keys.items():
        if key not in _KEYS and not key.startswith("cni.dev/"):
            raise CniError(UNSUPPORTED_FIELD, f"wherry-cni does not know the key {key!r} (value {_short(value)})")
    if _flag(keys, "ipMasq", False):
        raise CniError(
            UNSUPPORTED_FIELD,
            "ipMasq true is not supported: the overlay masquerades what leaves the pods; remove ipMasq",
        )
    bridge = _text(keys, "bridge", BRIDGE)
    if not is_link_name(bridge):
        raise _invalid("bridge", bridge, "must name an interface in at most 15 bytes")
    gateway = _flag(keys, "isGateway", True)
    default_route = _flag(keys, "isDefaultGateway", gateway)
    if default_route and not gateway:
        raise _invalid("isDefaultGateway", True, "contradicts isGateway false")
    if "subnet" in keys and "subnetFile" in keys:
        raise _invalid("subnetFile", keys["subnetFile"], "and subnet are both given: keep one")
    previous, dns = keys.get("prevResult"), keys.get("dns")
    return Config(
        version=_text(keys, "cniVersion", ""),
        bridge=bridge,
        mtu=_mtu(keys.get("mtu", 0)),
        gateway=gateway,
        default_route=default_route,
        hairpin=_flag(keys, "hairpinMode", False),
        ledger=ledger_of(keys),
        subnet=_subnet(_text(keys, "subnet", "")) if "subnet" in keys else None,
        subnet_file=_path(keys, "subnetFile", SUBNET_FILE),
        routes=_routes(keys.get("routes", [])),
        dns=dns if isinstance(dns, dict) else {},
        previous=previous if isinstance(previous, dict) else None,
    )


def ledger_of(keys: Mapping[str, Json]) -> str:
    """The directory of the network's reservations, which is all that DEL has to know: a configuration that was broken
    after the ADD must not keep the pod's address from being released."""
    return f"{_path(keys, 'dataDir', DATA_DIR)}/{_text(keys, 'name', '')}"


def read_lease(config: Config) -> Lease:
    """What this node may hand out; code 11 as long as the overlay has not said it."""
    if config.subnet is not None:
        return Lease(config.subnet, config.mtu)
    try:
        with open(config.subnet_file, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        raise CniError(
            TRY_AGAIN_LATER,
            f"{config.subnet_file} is not there yet: the overlay writes it when this node has its subnet",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CniError(IO_FAILURE, f"cannot read the subnet from {config.subnet_file}: {error}") from None
    return parse_lease(text, config)


def parse_lease(text: str, config: Config) -> Lease:
    """The lease that flannel's subnet.env spells. The configuration's own mtu wins over the file's."""
    said = dict(line.split("=", 1) for line in text.split() if "=" in line)
    try:
        subnet = subnet_of(*parse_interface(said.get("FLANNEL_SUBNET", "")))
        network = parse_subnet(said["FLANNEL_NETWORK"]) if said.get("FLANNEL_NETWORK") else None
        mtu = _mtu(int(said.get("FLANNEL_MTU") or 0))
    except ValueError as error:
        raise CniError(INVALID_CONFIGURATION, f"{config.subnet_file} does not say a subnet: {error}") from None
    if not _SHORTEST <= subnet.length <= _LONGEST:
        raise CniError(INVALID_CONFIGURATION, f"{config.subnet_file}: {subnet} must be a /{_SHORTEST} to a /{_LONGEST}")
    return Lease(subnet, config.mtu or mtu, network)


def _invalid(key: str, value: Json, what: str) -> CniError:
    return CniError(INVALID_CONFIGURATION, f"{key} {_short(value)} {what}")


def _text(keys: Mapping[str, Json], key: str, default: str) -> str:
    value = keys.get(key, default)
    if not isinstance(value, str):
        raise _invalid(key, value, "must be a string")
    return value


def _flag(keys: Mapping[str, Json], key: str, default: bool) -> bool:
    value = keys.get(key, default)
    if not isinstance(value, bool):
        raise _invalid(key, value, "must be true or false")
    return value


def _path(keys: Mapping[str, Json], key: str, default: str) -> str:
    value = _text(keys, key, default)
    if not value.startswith("/"):
        raise _invalid(key, value, "must be an absolute path")
    return value.rstrip("/")


def _mtu(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 0 or 576 <= value <= 65535):
        raise _invalid("mtu", value, "must be 576 to 65535, or 0 for the overlay's")
    return value


def _subnet(text: str) -> Subnet:
    try:
        subnet = parse_subnet(text)
    except ValueError as error:
        raise CniError(INVALID_CONFIGURATION, f"subnet: {error}") from None
    if not _SHORTEST <= subnet.length <= _LONGEST:
        raise _invalid("subnet", text, f"must be a /{_SHORTEST} to a /{_LONGEST}")
    return subnet


def _routes(listed: Json) -> list[Route]:
    if not isinstance(listed, list):
        raise _invalid("routes", listed, "must be a list")
    found = []
    for place, each in enumerate(listed):
        if not isinstance(each, dict) or not each.keys() <= {"dst", "gw"}:
            raise _invalid(f"routes[{place}]", each, 'must be {"dst": "10.0.0.0/8"} with an optional "gw"')
        destination, gateway = _text(each, "dst", ""), _text(each, "gw", "")
        try:
            found.append(Route(str(parse_subnet(destination)), gateway))
            if gateway:
                parse_address(gateway)
        except ValueError as error:
            raise CniError(INVALID_CONFIGURATION, f"routes[{place}]: {error}") from None
    return found


def _short(value: Json) -> str:
    text = encode(value)
    return text if len(text) <= 80 else text[:77] + "..."
