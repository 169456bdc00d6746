"""The CNI specification's words: networks, results, errors and the versions they are spelt in.

https://www.cni.dev/docs/spec/ (1.1.0). A runtime (the kubelet) reads a network configuration list, starts each of its
plugins with the call in CNI_* variables and one plugin's configuration on stdin, and reads a result or an error, JSON
either way, from stdout. Both ends take these words from here; nothing else of this room is anybody's business.

A result is spelt in the version that the configuration names. 1.0.0 dropped the ``version`` ("4" or "6") beside each
address; 1.1.0 brought an interface's ``mtu``, ``socketPath`` and ``pciID``, a route's ``mtu``, ``advmss``, ``priority``,
``table`` and ``scope``, and the commands STATUS and GC. Everything is read in any version: a ``prevResult`` may come from a
plugin that spells older.

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

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
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
NOT_AVAILABLE = 50  # STATUS: no ADD would succeed now
LIMITED_CONNECTIVITY = 51  # STATUS: and the containers that are there may not reach everything
INTERNAL = 999  # libcni's own: a bug
# From 100 on codes are a plugin's own. These are ours.
NO_FREE_ADDRESS = 100
ALREADY_ATTACHED = 101
KERNEL_REFUSED = 102
CHECK_FAILED = 103
DELEGATE_FAILED = 104

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
    """A link the plugin made. ``sandbox`` is the namespace path, empty for a link of the host's; ``mtu`` 0 is not said."""

    __slots__ = ("mac", "mtu", "name", "pci", "sandbox", "socket")

    def __init__(
        self, name: str, mac: str = "", sandbox: str = "", *, mtu: int = 0, socket: str = "", pci: str = ""
    ) -> None:
        self.name: Final = name
        self.mac: Final = mac
        self.sandbox: Final = sandbox
        self.mtu: Final = mtu
        self.socket: Final = socket
        self.pci: Final = pci

    def as_json(self, version: str) -> dict[str, Json]:
        said: dict[str, Json] = {"name": self.name, "mac": self.mac, "sandbox": self.sandbox}
        if version >= "1.1.0":
            said |= {"mtu": self.mtu, "socketPath": self.socket, "pciID": self.pci}
        return _without_empty(said)


class Address:
    """An address with its prefix length ("10.244.1.7/24") on the interface at this place in the result's list."""

    __slots__ = ("address", "gateway", "interface")

    def __init__(self, address: str, gateway: str = "", interface: int | None = None) -> None:
        self.address: Final = address
        self.gateway: Final = gateway
        self.interface: Final = interface

    def as_json(self, version: str) -> dict[str, Json]:
        said: dict[str, Json] = {}
        if version < "1.0.0":
            said["version"] = "6" if ":" in self.address else "4"
        said["address"] = self.address
        if self.interface is not None:
            said["interface"] = self.interface
        if self.gateway:
            said["gateway"] = self.gateway
        return said


class Route:
    """``gateway`` is empty where the address's own is meant. What only 1.1.0 can say is in ``more`` under its own words: mtu,
    advmss, priority, table, scope."""

    __slots__ = ("destination", "gateway", "more")

    def __init__(self, destination: str, gateway: str = "", more: Mapping[str, int] | None = None) -> None:
        self.destination: Final = destination
        self.gateway: Final = gateway
        self.more: Final = more or {}

    def as_json(self, version: str) -> dict[str, Json]:
        said: dict[str, Json] = {"dst": self.destination, "gw": self.gateway}
        return _without_empty({**said, **self.more} if version >= "1.1.0" else said)


ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")


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

        return tuple(ipaddress.ip_interface(each.address) for each in self.of_container())

    def of_container(self) -> tuple[Address, ...]:
        """The addresses that are not on a link of the host's. One on a link that the result does not list is taken for the
        container's, as by the reference: there are plugins that say "interface": 0 and no interfaces."""
        links = self.interfaces
        return tuple(
            each
            for each in self.addresses
            if each.interface is None or each.interface >= len(links) or links[each.interface].sandbox
        )

    def as_json(self, version: str) -> dict[str, Json]:
        """The result as this version of the specification spells it."""
        said: dict[str, Json] = {"cniVersion": version}
        if self.interfaces:
            said["interfaces"] = [each.as_json(version) for each in self.interfaces]
        if self.addresses:
            said["ips"] = [each.as_json(version) for each in self.addresses]
        if self.routes:
            said["routes"] = [each.as_json(version) for each in self.routes]
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
    """A network configuration list: its plugins are called in order for ADD and CHECK, backwards for DEL; all of them for
    STATUS and GC. ``check`` and ``gc``: whether its author and its version let the runtime make these calls."""

    __slots__ = ("check", "gc", "name", "plugins", "status", "version")

    def __init__(self, name: str, version: str, plugins: Sequence[Plugin], check: bool = True, gc: bool = True) -> None:
        self.name: Final = name
        self.version: Final = version
        self.plugins: Final = tuple(plugins)
        self.check: Final = check and version >= "0.4.0"
        self.gc: Final = gc and version >= "1.1.0"
        self.status: Final = version >= "1.1.0"

    def request(
        self,
        plugin: Plugin,
        previous: Mapping[str, Json] | None = None,
        runtime: Mapping[str, Json] | None = None,
        valid: Sequence[tuple[str, str]] | None = None,
    ) -> dict[str, Json]:
        """What the plugin reads on stdin. ``previous`` is the result before it as it came: for ADD the plugin before's,
        for CHECK and DEL the whole ADD's final one. Of ``runtime`` it is told the capabilities that it asked for. ``valid``
        is GC's: the (container, interface) pairs that are attached; whatever else is there is garbage."""
        said = {key: value for key, value in plugin.configuration.items() if key != "capabilities"}
        said["name"], said["cniVersion"] = self.name, self.version
        told = {key: value for key, value in (runtime or {}).items() if key in plugin.capabilities}
        if told:
            said["runtimeConfig"] = told
        if previous is not None:
            said["prevResult"] = previous
        if valid is not None:
            said[VALID_ATTACHMENTS] = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        return said


VALID_ATTACHMENTS = "cni.dev/valid-attachments"


def valid_attachments(config: Mapping[str, Json]) -> frozenset[tuple[str, str]]:
    """The (container, interface) pairs that a GC's configuration names. Refused when it names none at all: a runtime that forgot
    the list would have us remove the network of every container; one with no containers sends an empty list."""
    listed = config.get(VALID_ATTACHMENTS, config.get("cni.dev/attachments"))
    if listed is None:
        raise CniError(
            INVALID_CONFIGURATION, f"GC needs {VALID_ATTACHMENTS}, the attachments to keep (or an empty list)"
        )
    try:
        pairs = _objects({"": listed}, "")
        return frozenset((_said(each, "containerID"), _said(each, "ifname")) for each in pairs)
    except TypeError as error:
        raise CniError(INVALID_CONFIGURATION, f"{VALID_ATTACHMENTS}: {error}") from None


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


def parse_network(data: bytes, beside: Sequence[bytes] = ()) -> Network:
    """The network that a .conflist (or a .conf, which is a list of one) describes; CniError when it describes none.

    ``beside`` are the contents of the files in the folder of the network's name beside it, which a list takes in behind its own
    plugins unless it says ``loadOnlyInlinedPlugins`` (1.1.0). Of ``cniVersions`` the newest that we speak is taken.
    """
    file = _object(data, "the network configuration")
    name = file.get("name")
    if not isinstance(name, str) or not is_identifier(name):
        raise CniError(INVALID_CONFIGURATION, f"name must be letters, digits, '_', '.' and '-', not {name!r}")
    version = _version_of_list(name, file)
    listed = file.get("plugins", [file] if "type" in file else [])
    if not isinstance(listed, list):
        raise CniError(INVALID_CONFIGURATION, f"network {name}: plugins must list at least one plugin")
    if "plugins" in file or "type" not in file:
        inlined = _switch(name, file, "loadOnlyInlinedPlugins")
        listed = [*listed, *(_object(each, f"a plugin of network {name}") for each in (() if inlined else beside))]
    if not listed:
        raise CniError(INVALID_CONFIGURATION, f"network {name}: plugins must list at least one plugin")
    plugins = []
    for place, each in enumerate(listed):
        kind = each.get("type") if isinstance(each, dict) else None
        if not isinstance(kind, str) or not kind or "/" in kind:
            raise CniError(INVALID_CONFIGURATION, f"network {name}: plugins[{place}].type must name a plugin program")
        plugins.append(Plugin(kind, each))
    check, gc = not _switch(name, file, "disableCheck"), not _switch(name, file, "disableGC")
    return Network(name, version, plugins, check, gc)


def _version_of_list(name: str, file: Mapping[str, Json]) -> str:
    version, several = file.get("cniVersion"), file.get("cniVersions", [])
    if not isinstance(several, list) or not all(isinstance(each, str) for each in several):
        raise CniError(INVALID_CONFIGURATION, f"network {name}: cniVersions must be a list of versions")
    spoken = [each for each in VERSIONS if each == version or each in several]
    if spoken:
        return spoken[-1]
    if not isinstance(version, str):
        raise CniError(INVALID_CONFIGURATION, f"network {name}: cniVersion must be a version such as {NEWEST!r}")
    return version  # for the plugins to refuse in their own words


def _switch(name: str, file: Mapping[str, Json], key: str) -> bool:
    value = file.get(key, False)
    if isinstance(value, str) and value.lower() in {"true", "false"}:  # as libcni has it
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise CniError(INVALID_CONFIGURATION, f"network {name}: {key} must be true or false")
    return value


def parse_result(data: bytes) -> Result:
    """What a plugin printed on success, in any version from 0.3.0 on; CniError when it is no result."""
    return read_result(_object(data, "the plugin's result"))


def read_result(said: Mapping[str, Json]) -> Result:
    """``parse_result`` of what is decoded already."""
    if said.keys() & {"ip4", "ip6"}:
        raise CniError(
            UNDECODABLE, 'the plugin\'s result is spelt as before 0.3.0 ("ip4", "ip6"): raise its cniVersion'
        )
    try:
        return Result(
            [_read_interface(each) for each in _objects(said, "interfaces")],
            [_read_address(each) for each in _objects(said, "ips")],
            [_read_route(each) for each in _objects(said, "routes")],
            _mapping(said.get("dns") or {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CniError(UNDECODABLE, f"the plugin's result is not one: {error!r}") from None


def previous_result(config: Mapping[str, Json]) -> Result | None:
    """The configuration's ``prevResult``: of the plugin before (ADD), of the whole ADD (CHECK, DEL). None when it has none."""
    said = config.get("prevResult")
    if said is None:
        return None
    if not isinstance(said, dict):
        raise CniError(UNDECODABLE, "prevResult must be a JSON object, the result of the plugin before")
    return read_result(said)


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


def is_link_name(name: str) -> bool:
    """The kernel's own rule (dev_valid_name), no colon, which marks an alias, and UTF-8, which the kernel does not ask for."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return False
    return 0 < length <= 15 and name not in {".", ".."} and not any(c in "/:" or c.isspace() for c in name)


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


def _said(said: Mapping[str, Json], key: str) -> str:
    value = said.get(key)
    if not isinstance(value, str) or not value:
        raise TypeError(f"{key} must be a name, not {value!r}")
    return value


def _read_interface(said: Mapping[str, Json]) -> Interface:
    return Interface(
        str(said["name"]),
        str(said.get("mac") or ""),
        str(said.get("sandbox") or ""),
        mtu=_whole(said, "mtu") or 0,
        socket=str(said.get("socketPath") or ""),
        pci=str(said.get("pciID") or ""),
    )


def _read_address(said: Mapping[str, Json]) -> Address:
    from linux.rtnetlink import packed

    address, interface = str(said["address"]), _whole(said, "interface")
    number, _, length = address.partition("/")
    if not (length.isascii() and length.isdigit() and int(length) <= len(packed(number)) * 8):
        raise ValueError(f"{address!r} is no address with a prefix length")
    if interface is not None and interface < 0:
        raise ValueError("ips[].interface must be a place in interfaces")
    return Address(address, str(said.get("gateway") or ""), interface)


def _read_route(said: Mapping[str, Json]) -> Route:
    more = {key: number for key in ROUTE_NUMBERS if (number := _whole(said, key)) is not None}
    return Route(str(said["dst"]), str(said.get("gw") or ""), more)


def _whole(said: Mapping[str, Json], key: str) -> int | None:
    number = said.get(key)
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
        raise TypeError(f"{key} must be a whole number, not {number!r}")
    return number


def _without_empty(fields: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in fields.items() if value or (key in ROUTE_NUMBERS[2:] and value is not None)}
