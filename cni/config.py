"""What configurations say, read at the door: one reader for each sort of value, and the keys of ``bridge``.

| key of bridge             | default | meaning                                                                      |
|---------------------------|---------|------------------------------------------------------------------------------|
| bridge                    | cni0    | the bridge, made when missing                                                |
| isGateway                 | false   | the bridge takes the gateways' addresses and the node forwards               |
| isDefaultGateway          | false   | the same, and the pod's default route points there                           |
| forceAddress              | false   | an address that the bridge has already is replaced, not complained of        |
| ipMasq, ipMasqBackend     | false   | what leaves the pod's network is masqueraded, by "iptables" or "nftables"    |
| mtu                       | 0       | of the bridge (when made) and of both ends of the pod's link; 0: the kernel's |
| hairpinMode, promiscMode  | false   | how a pod may reach itself through a Service; one of the two                 |
| vlan, vlanTrunk           | 0, []   | the port's VLAN, untagged; or the VLANs that it carries tagged                |
| preserveDefaultVlan       | true    | and the bridge's default VLAN as well                                        |
| portIsolation             | false   | isolated ports cannot reach each other                                       |
| enabledad                 | false   | IPv6 looks for duplicates before an address is used                          |
| disableContainerInterface | false   | the container's end stays down; goes without ipam                            |
| ipam, dns, args.cni.mac, runtimeConfig.mac |  | the specification's, and its conventions'                      |

Keys that nobody knows are ignored, as the reference plugin does. ``macspoofchk`` it knows and we do not: refused.
"""

from __future__ import annotations

from cni.codec import encode
from cni.model import Bridge
from cni.spec import INVALID_CONFIGURATION, UNSUPPORTED_FIELD, CniError, is_link_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call
    from cni.codec import Json

SUBNET_FILE = "/run/flannel/subnet.env"
DATA_DIR = "/var/lib/cni/networks"
BRIDGE = "cni0"

_BACKENDS = ("", "iptables", "nftables")
_LAST_VLAN = 4094


def parse_bridge(call: Call, keys: Mapping[str, Json]) -> Bridge:
    """The network of this configuration; CniError names the key and the remedy."""
    if flag(keys, "macspoofchk"):
        raise CniError(UNSUPPORTED_FIELD, "macspoofchk true is not supported: remove it, or use the reference plugin")
    name = text(keys, "bridge", BRIDGE)
    if not is_link_name(name):
        raise invalid("bridge", name, "must name an interface in at most 15 bytes")
    default_route = flag(keys, "isDefaultGateway")
    hairpin, promiscuous = flag(keys, "hairpinMode"), flag(keys, "promiscMode")
    if hairpin and promiscuous:
        raise invalid("promiscMode", True, "and hairpinMode are two ways to one end: keep one")
    vlan, trunk = whole(keys, "vlan", 0), _trunk(keys.get("vlanTrunk"))
    if not 0 <= vlan <= _LAST_VLAN:
        raise invalid("vlan", vlan, f"must be 0 to {_LAST_VLAN}")
    if vlan and trunk:
        raise invalid("vlan", vlan, "and vlanTrunk are both given: keep one")
    backend = text(keys, "ipMasqBackend", "")
    if backend not in _BACKENDS:
        raise invalid("ipMasqBackend", backend, 'must be "iptables" or "nftables"')
    ipam, down = text(mapping(keys, "ipam"), "type", ""), flag(keys, "disableContainerInterface")
    if down and ipam:
        raise invalid("disableContainerInterface", True, "goes without addresses: remove ipam")
    return Bridge(
        network=text(keys, "name", ""),
        name=name,
        gateway=flag(keys, "isGateway") or default_route,
        default_route=default_route,
        force=flag(keys, "forceAddress"),
        masquerade=flag(keys, "ipMasq"),
        backend=backend,
        mtu=mtu(keys),
        hairpin=hairpin,
        promiscuous=promiscuous,
        vlan=vlan,
        trunk=trunk,
        untagged=flag(keys, "preserveDefaultVlan", True),
        dad=flag(keys, "enabledad"),
        down=down,
        isolated=flag(keys, "portIsolation"),
        mac=_mac(call, keys),
        ipam=ipam,
        dns=mapping(keys, "dns"),
    )


def _mac(call: Call, keys: Mapping[str, Json]) -> bytes:
    """The MAC that somebody asks for; of several the runtime's word counts most, CNI_ARGS' least."""
    asked = call.args.get("MAC", "")
    asked = text(mapping(mapping(keys, "args"), "cni"), "mac", "") or asked
    asked = text(mapping(keys, "runtimeConfig"), "mac", "") or asked
    if not asked:
        return b""
    try:
        mac = bytes.fromhex(asked.replace(":", " ").replace("-", " "))
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & 1:
        raise invalid("mac", asked, "must be six bytes such as 0a:58:0a:f4:01:07, and no group's")
    return mac


def _trunk(listed: Json) -> list[int]:
    """The VLANs of vlanTrunk, sorted: [{"id": 5}, {"minID": 10, "maxID": 20}]."""
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise invalid("vlanTrunk", listed, 'must be a list such as [{"id": 5}, {"minID": 10, "maxID": 20}]')
    found: set[int] = set()
    for each in listed:
        first, last = (whole(each, key, 0) for key in ("minID", "maxID"))
        if ("minID" in each) != ("maxID" in each):
            raise invalid("vlanTrunk", each, "must give minID and maxID together")
        single = whole(each, "id", 0)
        asked = [single] * ("id" in each) + [first, last] * ("minID" in each)
        if not asked or not all(0 < number <= _LAST_VLAN for number in asked) or last < first:
            raise invalid("vlanTrunk", each, f"must give an id, or minID up to maxID, of 1 to {_LAST_VLAN}")
        found.update([single] if "id" in each else [], range(first, last + 1) if "minID" in each else [])
    return sorted(found)


def invalid(key: str, value: Json, what: str) -> CniError:
    return CniError(INVALID_CONFIGURATION, f"{key} {short(value)} {what}")


def text(keys: Mapping[str, Json], key: str, default: str) -> str:
    value = keys.get(key, default)
    if not isinstance(value, str):
        raise invalid(key, value, "must be a string")
    return value


def flag(keys: Mapping[str, Json], key: str, default: bool = False) -> bool:
    value = keys.get(key, default)
    if not isinstance(value, bool):
        raise invalid(key, value, "must be true or false")
    return value


def whole(keys: Mapping[str, Json], key: str, default: int) -> int:
    value = keys.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid(key, value, "must be a whole number")
    return value


def mapping(keys: Mapping[str, Json], key: str) -> Mapping[str, Json]:
    """The object under the key, empty where there is none."""
    value = keys.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(key, value, "must be an object")
    return value


def texts(keys: Mapping[str, Json], key: str) -> list[str]:
    """The list of strings under the key, empty where there is none."""
    value = keys.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise invalid(key, value, "must be a list of strings")
    return list(value)


def path(keys: Mapping[str, Json], key: str, default: str) -> str:
    value = text(keys, key, default)
    if not value.startswith("/"):
        raise invalid(key, value, "must be an absolute path")
    return value.rstrip("/")


def mtu(keys: Mapping[str, Json]) -> int:
    value = keys.get("mtu", 0)
    if isinstance(value, bool) or not isinstance(value, int) or not (value == 0 or 68 <= value <= 65535):
        raise invalid("mtu", value, "must be 68 to 65535, or 0 for the default")
    return value


def short(value: Json) -> str:
    said = encode(value)
    return said if len(said) <= 80 else said[:77] + "..."
