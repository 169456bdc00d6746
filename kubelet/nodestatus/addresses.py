"""A pod's addresses, in the order in which they are told: one of each family, that of the node's first address first
(pkg/kubelet/kubelet_pods.go, sortPodIPs). With the host's network they are the node's."""

from collections.abc import Sequence

from kube.pods import Pod
from kubelet.runtime import IPAddress


def pod_addresses(pod: Pod, found: Sequence[IPAddress], host_ips: Sequence[str]) -> tuple[str, ...]:
    """`found` are those of its sandbox."""
    if pod.spec.host_network:
        return tuple(host_ips)
    if not found:
        return ()
    of_version = {ip.version: str(ip) for ip in reversed(found)}
    first = (6 if ":" in host_ips[0] else 4) if host_ips else found[0].version
    return tuple(of_version[version] for version in (first, 10 - first) if version in of_version)
