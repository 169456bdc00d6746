"""What portmap is asked for: ports of the node, the pod's addresses, and how the rules are to be made.

| key                       | default    | meaning                                                                               |
|---------------------------|------------|---------------------------------------------------------------------------------------|
| runtimeConfig.portMappings| []         | [{hostPort, containerPort, protocol: tcp, udp or sctp, hostIP}], from the runtime     |
| backend                   | iptables   | or nftables; where iptables is not installed and nft is, nftables                     |
| snat                      | true       | masquerade what could not be answered otherwise: the pod itself, its bridge, 127.0.0.1|
| masqAll                   | false      | masquerade everything                                                                 |
| markMasqBit               | 13         | the bit of the packet's mark that says so (14 and 15 are Kubernetes')                 |
| externalSetMarkChain      |            | iptables: somebody else's chain that marks, e.g. KUBE-MARK-MASQ; excludes markMasqBit |
| conditionsV4, conditionsV6| []         | more matches, in the packet filter's own words, before a packet may be redirected     |

These are the reference plugin's, with its defaults. A family is its number, 4 or 6.
"""

from __future__ import annotations

from cni.spec import INVALID_CONFIGURATION, CniError
from linux.rtnetlink import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Final

    from cni.codec import Json
    from cni.spec import Result

FAMILIES = (4, 6)
BACKENDS = ("iptables", "nftables")
PROTOCOLS = ("sctp", "tcp", "udp")
MARK_BIT = 13


class Port:
    """One port of the node: `address` is the node's own that it is limited to, "" for all of them."""

    __slots__ = ("address", "family", "host", "pod", "protocol")

    def __init__(self, host: int, pod: int, protocol: str = "tcp", address: str = "") -> None:
        bare = packed(address) if address else b""
        self.host: Final = host
        self.pod: Final = pod
        self.protocol: Final = protocol
        self.family: Final = {0: 0, 4: 4, 16: 6}[len(bare)]  # 0: both
        self.address: Final = address if any(bare) else ""  # 0.0.0.0 is every address, of its family


class Wish:
    """The ports of one container and how they are to be had. `mark` is the bit's value, 0 where `marker` (a chain) marks."""

    __slots__ = ("backend", "conditions", "container", "everything", "mark", "marker", "network", "ports", "snat")

    def __init__(
        self,
        network: str,
        container: str,
        ports: Sequence[Port] = (),
        *,
        backend: str = "",
        snat: bool = True,
        everything: bool = False,
        mark: int = 1 << MARK_BIT,
        marker: str = "",
        conditions: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        self.network: Final = network
        self.container: Final = container
        self.ports: Final = tuple(ports)
        self.backend: Final = backend
        self.snat: Final = snat
        self.everything: Final = everything
        self.mark: Final = mark
        self.marker: Final = marker
        self.conditions: Final = conditions or {}

    def of(self, family: int) -> list[Port]:
        """The ports that a pod's address of this family can have."""
        return [port for port in self.ports if port.family in (0, family)]


class Pod:
    """An address of the pod, "10.244.1.7", and the range it lies in, "10.244.1.7/24"."""

    __slots__ = ("address", "family", "range")

    def __init__(self, text: str) -> None:
        self.address: Final = text.partition("/")[0]
        self.range: Final = text
        self.family: Final = 6 if ":" in text else 4


def parse(container: str, config: Mapping[str, Json]) -> Wish:
    """What the configuration on stdin asks for this container; CniError names the key."""
    bit, marker = config.get("markMasqBit"), _text(config, "externalSetMarkChain")
    if bit is not None and marker:
        raise _invalid("markMasqBit and externalSetMarkChain exclude each other: remove one of them")
    bit = MARK_BIT if bit is None else bit
    if not isinstance(bit, int) or isinstance(bit, bool) or not 0 <= bit <= 31:
        raise _invalid(f"markMasqBit must be a bit's number from 0 to 31, not {bit!r}")
    conditions = {4: _words(config, "conditionsV4"), 6: _words(config, "conditionsV6")}
    return Wish(
        str(config["name"]),
        container,
        _ports(config),
        backend=_backend(config, conditions, marker),
        snat=_truth(config, "snat", True),
        everything=_truth(config, "masqAll", False),
        mark=0 if marker else 1 << bit,
        marker=marker,
        conditions=conditions,
    )


def pods(result: Result | None, ifname: str) -> dict[int, Pod]:
    """The container's addresses on this interface, one of each family at most: the first."""
    found: dict[int, Pod] = {}
    for each in result.addresses if result is not None else ():
        if each.interface is not None and 0 <= each.interface < len(result.interfaces if result else ()):
            link = result.interfaces[each.interface] if result else None
            if link is not None and (link.name != ifname or not link.sandbox):
                continue
        pod = Pod(each.address)
        found.setdefault(pod.family, pod)
    return found


def _ports(config: Mapping[str, Json]) -> list[Port]:
    runtime = config.get("runtimeConfig") or {}
    listed = runtime.get("portMappings") if isinstance(runtime, dict) else None
    if not isinstance(listed or [], list):
        raise _invalid("runtimeConfig.portMappings must be a list")
    return [_port(f"runtimeConfig.portMappings[{place}]", each) for place, each in enumerate(listed or ())]


def _port(where: str, said: Json) -> Port:
    if not isinstance(said, dict):
        raise _invalid(f"{where} must be an object with hostPort and containerPort")
    numbers = []
    for key in ("hostPort", "containerPort"):
        number = said.get(key)
        if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 16:
            raise _invalid(f"{where}.{key} must be a port's number from 1 to 65535, not {number!r}")
        numbers.append(number)
    protocol, address = said.get("protocol") or "tcp", said.get("hostIP") or ""
    if not isinstance(protocol, str) or protocol.lower() not in PROTOCOLS:
        raise _invalid(f"{where}.protocol must be tcp, udp or sctp, not {protocol!r}")
    try:
        return Port(numbers[0], numbers[1], protocol.lower(), str(address))
    except ValueError:
        raise _invalid(f"{where}.hostIP must be an address of the node, not {address!r}") from None


def _backend(config: Mapping[str, Json], conditions: Mapping[int, Sequence[str]], marker: str) -> str:
    """The backend that was named; "" when it is left to what is installed."""
    backend = _text(config, "backend")
    if backend not in ("", *BACKENDS):
        raise _invalid(f'backend must be "iptables" or "nftables", not {backend!r}')
    for family, words in conditions.items():
        if backend and words and (words[0][:1] in "-!") != (backend == "iptables"):
            raise _invalid(f"conditionsV{family} are not in the words of the backend {backend}")
    if backend == "nftables" and marker:
        raise _invalid("externalSetMarkChain is a chain of iptables: remove it, or say backend: iptables")
    if not backend and (marker or any(words and words[0][:1] in "-!" for words in conditions.values())):
        return "iptables"
    return "nftables" if not backend and any(conditions.values()) else backend


def _words(config: Mapping[str, Json], key: str) -> list[str]:
    words = config.get(key) or []
    if not isinstance(words, list) or not all(isinstance(word, str) and word and "\n" not in word for word in words):
        raise _invalid(f'{key} must be a list of words, such as ["!", "-d", "192.0.2.0/24"]')
    return [str(word) for word in words]


def _text(config: Mapping[str, Json], key: str) -> str:
    value = config.get(key)
    if value is not None and (not isinstance(value, str) or any(each.isspace() for each in value)):
        raise _invalid(f"{key} must be a name, not {value!r}")
    return value or ""


def _truth(config: Mapping[str, Json], key: str, default: bool) -> bool:
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _invalid(f"{key} must be true or false, not {value!r}")
    return value


def _invalid(message: str) -> CniError:
    return CniError(INVALID_CONFIGURATION, message)
