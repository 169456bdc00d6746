"""The CNI specification's words: networks, results, errors and the versions they are spelt in.

https://www.cni.dev/docs/spec/ (1.0.0). A runtime (the kubelet) reads a network configuration list, starts each of its
plugins with the call in CNI_* variables and one plugin's configuration on stdin, and reads a result or an error, JSON
either way, from stdout. Both ends take these words from here; nothing else of this room is anybody's business.

A result is spelt in the version that the configuration names. Between 0.3.1 and 1.0.0 one thing changed: the ``version``
("4" or "6") beside each address went away.

The classes are plain because the plugin imports them: ``typing`` and ``dataclasses`` would triple its start.
"""

from __future__ import annotations

from cni.codec import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from ipaddress import IPv4Interface, IPv6Interface
    from typing import Final

    from cni.codec import Json

VERSIONS = ("0.3.1", "0.4.0", "1.0.0")
NEWEST = VERSIONS[-1]

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
UNKNOWN_CONTAINER = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
UNDECODABLE = 6
INVALID_CONFIGURATION = 7
INVALID_NAMESPACE = 8  # libcni's own, unlisted in the specification
TRY_AGAIN_LATER = 11
# From 100 on codes are a plugin's own. These are wherry-cni's.
NO_FREE_ADDRESS = 100
ALREADY_ATTACHED = 101
KERNEL_REFUSED = 102
CHECK_FAILED = 103

_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_IDENTIFIER = _ALPHANUMERIC | frozenset("_.-")


class CniError(Exception):
    """What a plugin answers instead of a result: a code, one line of message, and details where there are more."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code: Final = code
        self.message: Final = message
        self.details: Final = details

    def as_json(self, version: str = NEWEST) -> dict[str, Json]:
        said: dict[str, Json] = {"cniVersion": version, "code": self.code, "msg": self.message}
        if self.details:
            said["details"] = self.details
        return said

    def __str__(self) -> str:
        return f"{self.message} (code {self.code}{', ' + self.details if self.details else ''})"


class Interface:
    """A link the plugin made. ``sandbox`` is the namespace path, empty for a link of the host's."""

    __slots__ = ("mac", "name", "sandbox")

    def __init__(self, name: str, mac: str = "", sandbox: str = "") -> None:
        self.name: Final = name
        self.mac: Final = mac
        self.sandbox: Final = sandbox


class Address:
    """An address with its prefix length ("10.244.1.7/24") on the interface at this place in the result's list."""

    __slots__ = ("address", "gateway", "interface")

    def __init__(self, address: str, gateway: str = "", interface: int | None = None) -> None:
        self.address: Final = address
        self.gateway: Final = gateway
        self.interface: Final = interface


class Route:
    __slots__ = ("destination", "gateway")

    def __init__(self, destination: str, gateway: str = "") -> None:
        self.destination: Final = destination
        self.gateway: Final = gateway


class Result:
    """What an ADD gave the container."""

    __slots__ = ("addresses", "dns", "interfaces", "routes")

    def __init__(
        self,
        interfaces: Sequence[Interface] = (),
        addresses: Sequence[Address] = (),
        routes: Sequence[Route] = (),
        dns: Mapping[str, Json] | None = None,
    ) -> None:
        self.interfaces: Final = tuple(interfaces)
        self.addresses: Final = tuple(addresses)
        self.routes: Final = tuple(routes)
        self.dns: Final = dict(dns or {})

    def ips(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """The container's addresses, in the plugin's order: those of the host's links left out. For runtimes."""
        import ipaddress

        return tuple(
            ipaddress.ip_interface(each.address)
            for each in self.addresses
            if each.interface is None or self.interfaces[each.interface].sandbox
        )

    def as_json(self, version: str) -> dict[str, Json]:
        """The result as this version of the specification spells it."""
        said: dict[str, Json] = {"cniVersion": version}
        if self.interfaces:
            said["interfaces"] = [
                _without_empty({"name": each.name, "mac": each.mac, "sandbox": each.sandbox})
                for each in self.interfaces
            ]
        said["ips"] = [_address_as_json(each, version) for each in self.addresses]
        if self.routes:
            said["routes"] = [_without_empty({"dst": each.destination, "gw": each.gateway}) for each in self.routes]
        said["dns"] = self.dns
        return said


class Plugin:
    """One plugin of a network: the program's name and its configuration as the author wrote it."""

    __slots__ = ("configuration", "type")

    def __init__(self, type: str, configuration: Mapping[str, Json]) -> None:  # noqa: A002 - the specification's word
        self.type: Final = type
        self.configuration: Final = configuration

    @property
    def capabilities(self) -> frozenset[str]:
        """Which keys of the runtime's knowledge (portMappings, bandwidth, ...) this plugin asks for."""
        asked = self.configuration.get("capabilities")
        return frozenset(name for name, wanted in asked.items() if wanted) if isinstance(asked, dict) else frozenset()


class Network:
    """A network configuration list: its plugins are called in order for ADD and CHECK, backwards for DEL."""

    __slots__ = ("check", "name", "plugins", "version")

    def __init__(self, name: str, version: str, plugins: Sequence[Plugin], check: bool = True) -> None:
        self.name: Final = name
        self.version: Final = version
        self.plugins: Final = tuple(plugins)
        self.check: Final = check and version >= "0.4.0"

    def request(
        self,
        plugin: Plugin,
        previous: Mapping[str, Json] | None = None,
        runtime: Mapping[str, Json] | None = None,
    ) -> dict[str, Json]:
        """What the plugin reads on stdin. ``previous`` is the result before it as it came: for ADD the plugin before's,
        for CHECK and DEL the whole ADD's final one. Of ``runtime`` it is told the capabilities that it asked for."""
        said = {key: value for key, value in plugin.configuration.items() if key != "capabilities"}
        said["name"], said["cniVersion"] = self.name, self.version
        told = {key: value for key, value in (runtime or {}).items() if key in plugin.capabilities}
        if told:
            said["runtimeConfig"] = told
        if previous is not None:
            said["prevResult"] = previous
        return said


def environment(
    command: str, *, container: str = "", netns: str = "", ifname: str = "", args: str = "", path: str = ""
) -> dict[str, str]:
    """The CNI_* variables of one call. ``path`` is the search path of plugins, colon-separated."""
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": ifname,
        "CNI_ARGS": args,
        "CNI_PATH": path,
    }


def parse_network(data: bytes) -> Network:
    """The network that a .conflist (or a .conf, which is a list of one) describes; CniError when it describes none."""
    file = _object(data, "the network configuration")
    name, version = file.get("name"), file.get("cniVersion")
    if not isinstance(name, str) or not is_identifier(name):
        raise CniError(INVALID_CONFIGURATION, f"name must be letters, digits, '_', '.' and '-', not {name!r}")
    if not isinstance(version, str):
        raise CniError(INVALID_CONFIGURATION, f"network {name}: cniVersion must be a version such as {NEWEST!r}")
    listed = file.get("plugins") if "plugins" in file else [file]
    if not isinstance(listed, list) or not listed:
        raise CniError(INVALID_CONFIGURATION, f"network {name}: plugins must list at least one plugin")
    plugins = []
    for place, each in enumerate(listed):
        kind = each.get("type") if isinstance(each, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise CniError(INVALID_CONFIGURATION, f"network {name}: plugins[{place}].type must name a plugin program")
        plugins.append(Plugin(kind, each))
    return Network(name, version, plugins, check=file.get("disableCheck") is not True)


def parse_result(data: bytes) -> Result:
    """What a plugin printed on success, in any version from 0.3.0 on; CniError when it is no result."""
    said = _object(data, "the plugin's result")
    try:
        result = Result(
            [
                Interface(str(each["name"]), str(each.get("mac", "")), str(each.get("sandbox", "")))
                for each in _objects(said, "interfaces")
            ],
            [_parsed_address(each) for each in _objects(said, "ips")],
            [Route(str(each["dst"]), str(each.get("gw") or "")) for each in _objects(said, "routes")],
            _mapping(said.get("dns") or {}),
        )
        result.ips()
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CniError(UNDECODABLE, f"the plugin's result is not one: {error!r}") from None
    return result


def parse_error(data: bytes) -> CniError | None:
    """What a plugin printed on failure; None when it printed something else (it crashed, or wrote to stderr only)."""
    try:
        said = _object(data, "the plugin's error")
    except CniError:
        return None
    code, message, details = said.get("code"), said.get("msg"), said.get("details", "")
    if not isinstance(code, int) or not isinstance(message, str):
        return None
    return CniError(code, message, details if isinstance(details, str) else "")


def is_identifier(name: str) -> bool:
    """Whether the text can name a network or a container: ^[a-zA-Z0-9][a-zA-Z0-9_.-]*$"""
    return name[:1] in _ALPHANUMERIC and _IDENTIFIER.issuperset(name)


def _object(data: bytes, what: str) -> Mapping[str, Json]:
    try:
        found = decode(data)
    except ValueError as error:
        raise CniError(UNDECODABLE, f"{what} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise CniError(UNDECODABLE, f"{what} must be a JSON object")
    return found


def _objects(said: Mapping[str, Json], key: str) -> list[Mapping[str, Json]]:
    listed = said.get(key) or []
    if not isinstance(listed, list):
        raise TypeError(f"{key} must be a list")
    return [_mapping(each) for each in listed]


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} must be an object")
    return value


def _parsed_address(said: Mapping[str, Json]) -> Address:
    interface = said.get("interface")
    if interface is not None and not isinstance(interface, int):
        raise TypeError("ips[].interface must be a number")
    return Address(str(said["address"]), str(said.get("gateway") or ""), interface)


def _address_as_json(each: Address, version: str) -> dict[str, Json]:
    said: dict[str, Json] = {}
    if version < "1.0.0":
        said["version"] = "6" if ":" in each.address else "4"
    said["address"] = each.address
    if each.interface is not None:
        said["interface"] = each.interface
    if each.gateway:
        said["gateway"] = each.gateway
    return said


def _without_empty(fields: dict[str, str]) -> dict[str, Json]:
    return {key: value for key, value in fields.items() if value}
