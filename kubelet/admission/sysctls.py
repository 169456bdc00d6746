"""Which sysctls a pod may set: those that the kernel keeps per namespace and that harm neither the node nor other pods,
and what `allowedUnsafeSysctls` adds (pkg/kubelet/sysctl/{safe_sysctls,allowlist}.go)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kube.errors import UsageError
from kube.pods import Pod

SAFE = (
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
)
_NAMESPACES = {"kernel.sem": "ipc", "kernel.shm": "ipc", "kernel.msg": "ipc", "fs.mqueue.": "ipc", "net.": "net"}


def normalised(name: str) -> str:
    """With dots between its parts: `net/ipv4/conf/eth0.1/x`, where the first separator is a slash, has them swapped."""
    first = next((character for character in name if character in "./"), ".")
    return name if first == "." else name.translate(str.maketrans("./", "/."))


def _namespace(name: str) -> str:
    return next((namespace for prefix, namespace in _NAMESPACES.items() if name.startswith(prefix)), "")


@dataclass(frozen=True, slots=True)
class Allowlist:
    """The namespace by name and by prefix."""

    names: Mapping[str, str] = field(default_factory=lambda: {name: _namespace(name) for name in SAFE})
    prefixes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "Allowlist":
        """The safe ones and `patterns`, of which one may end in `*`. Raises UsageError."""
        names, prefixes = {name: _namespace(name) for name in SAFE}, {}
        for pattern in patterns:
            name = normalised(pattern)
            namespace = _namespace(name.removesuffix("*"))
            if not namespace or "*" in name[:-1]:
                raise UsageError(
                    f"allowedUnsafeSysctls: {pattern!r}: name sysctls that the kernel keeps for each pod apart "
                    "(kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*, net.*), with a * at most at the end"
                )
            if name.endswith("*"):
                prefixes[name[:-1]] = namespace
            else:
                names[name] = namespace
        return cls(names, prefixes)

    def objection(self, pod: Pod) -> str:
        """In upstream's words; empty when there is none."""
        context = pod.spec.security_context
        for sysctl in context.sysctls if context else ():
            name = normalised(sysctl.name)
            namespace = self.names.get(name) or next(
                (space for prefix, space in self.prefixes.items() if name.startswith(prefix)), ""
            )
            if not namespace:
                return f'forbidden sysctl: "{name}" not allowlisted'
            if (namespace == "net" and pod.spec.host_network) or (namespace == "ipc" and pod.spec.host_ipc):
                return f'forbidden sysctl: "{name}" not allowed with host {namespace} enabled'
        return ""
