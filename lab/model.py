"""The values a lab is made of."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

STATE = "/var/lib/wherry/lab"
"""Where labs keep their state unless told otherwise."""

DEMO_NODE_PORT = 30080
API_PORT = 6443

PODS = IPv4Network("10.244.0.0/16")
SERVICES = IPv4Network("10.96.0.0/16")
UNDERLAY = IPv4Network("10.200.0.0/24")
BRIDGE_ADDRESS = UNDERLAY[1]

NODE_GRACE = "12s"
"""How long a lab waits for a silent node, shorter than upstream's 40 s so that people see its pods move."""
TOLERATION_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Lab:
    """What the user asked for. `state` holds everything of this lab on disk."""

    name: str
    nodes: int
    state: str
    docker: str
    """The Docker endpoint, unix:///..."""
    own_docker: bool
    """True when the lab runs that dockerd itself."""
    api_port: int
    demo_port: int
    python: str
    prometheus: str = ""
    """Path of the prometheus binary when the lab runs one."""
    prometheus_port: int = 0
    etcd: str = ""
    """Path of the etcd binary when the API's objects are in one; else they are in SQLite."""

    @property
    def outer(self) -> str:
        return f"wherry-{self.name}"


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    index: int
    address: IPv4Address
    namespace: str
    state: str
    cgroup: str

    @property
    def centre(self) -> bool:
        return self.index == 1


@dataclass(frozen=True, slots=True)
class Daemon:
    """One supervised process. `name` is `node/daemon`, or a bare name for what belongs to no node."""

    name: str
    node: str
    namespace: str
    argv: tuple[str, ...]
    log: str
    env: dict[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    """Names of daemons that are ready before this one is started the first time."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that `up` makes: namespaces with their `ip -batch` lines, files by path, daemons, forwards."""

    lab: Lab
    nodes: tuple[Node, ...]
    links: dict[str, tuple[str, ...]]
    sysctls: dict[str, dict[str, str]]
    files: dict[str, str]
    daemons: tuple[Daemon, ...]
    forwards: tuple[tuple[int, str, int], ...]
    """(port on 127.0.0.1, address inside, port inside)"""
