"""The values a lab is made of."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

STATE = "/var/lib/wherry/lab"
"""Where labs keep their state unless told otherwise."""

DEMO_NODE_PORT = 30080
API_PORT = 6443
ETCD_METRICS_PORT = 2381

PODS = IPv4Network("10.244.0.0/16")
SERVICES = IPv4Network("10.96.0.0/16")
UNDERLAY = IPv4Network("10.200.0.0/24")
BRIDGE_ADDRESS = UNDERLAY[1]
BRIDGE_MAC = "0a:58:0a:c8:00:01"

DEMO_IMAGE = "wherry.local/demo:1"
PAUSE_IMAGE = "wherry.local/pause:1"

NODE_GRACE = "12s"
"""How long a lab waits for a silent node, shorter than upstream's 40 s so that people see its pods move."""
TOLERATION_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Wish:
    """What `up` was asked for. Empty or false: as it was, and for a new lab the default."""

    name: str
    state: str
    nodes: int
    demo: bool = True
    prometheus: bool = False
    store: str = ""
    """sqlite or etcd; a new lab's is sqlite."""
    runtime: str = ""
    """docker or containerd; a new lab's is docker."""
    static: bool = False
    """Whether the control plane is made of static pods."""
    proxy_mode: str = ""
    """iptables or nftables; a new lab's is iptables."""
    overlay: str = ""
    """vxlan or host-gw; a new lab's is vxlan."""


@dataclass(frozen=True, slots=True)
class StaticImage:
    """An image of directories, and what of this machine is mounted into them, read-only: interpreter, libraries, code."""

    name: str
    mounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lab:
    """What there is to be. `state` holds everything of this lab on disk."""

    name: str
    nodes: int
    state: str
    docker: str
    """The Docker endpoint, unix:///...; empty where each node has a containerd of its own."""
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

    snapshotter: str = ""
    """How containerd stacks an image's layers: overlayfs or native."""
    handlers: dict[str, str] = field(default_factory=dict)
    """Paths of OCI runtimes beside runc, by the name that a RuntimeClass gives as its handler."""
    static: "StaticImage | None" = None
    """What the control plane's static pods run, where it is made of them."""
    proxy_mode: str = "iptables"
    """How the nodes' proxies write their rules: iptables or nftables."""
    overlay: str = "vxlan"
    """How packets go from node to node: the overlay's backend, vxlan or host-gw."""

    @property
    def outer(self) -> str:
        return f"wherry-{self.name}"

    @property
    def runtime(self) -> str:
        return "docker" if self.docker else "containerd"


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    index: int
    address: IPv4Address
    namespace: str
    state: str
    cgroup: str
    spaces: str = ""
    """The directory that names its mount and UTS namespaces; empty where it has the machine's."""

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
    spaces: str = ""
    """The directory that names the mount and UTS namespaces it runs in; empty: the machine's."""
    first: tuple[str, ...] = ()
    """A program that has to end well, in the same namespaces, before it is started the first time."""


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
    views: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Nodes' mount and UTS namespaces by the directory that names them, with the shell lines that furnish them."""
