"""The files that tell a container its names: /etc/hosts, /etc/resolv.conf, /etc/hostname. Pure text.

Formats are upstream's (pkg/kubelet/kubelet_pods.go, network/dns/dns.go); on Docker all three are the kubelet's job.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kube.pods import Pod

MAX_NAMESERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_LENGTH = 2048
_LOCAL = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


@dataclass(frozen=True, slots=True)
class Resolver:
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def hostname(pod: Pod) -> str:
    """hostnameOverride goes before all that would make a name or a domain (KEP-4762), and is at most 64 bytes: none is cut."""
    if pod.spec.hostname_override:
        return pod.spec.hostname_override
    return (pod.spec.hostname or pod.metadata.name)[:63].rstrip("-.")


def domain(pod: Pod, cluster_domain: str) -> str:
    """The pod's DNS domain, for pods with a subdomain."""
    if pod.spec.hostname_override or not pod.spec.subdomain or not cluster_domain:
        return ""
    return f"{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"


def kernel_hostname(pod: Pod, cluster_domain: str) -> str:
    full = domain(pod, cluster_domain)
    if pod.spec.set_hostname_as_fqdn and full:
        return f"{hostname(pod)}.{full}"
    return hostname(pod)


def hosts_file(pod: Pod, pod_ips: Sequence[str], cluster_domain: str, host_file: str = "") -> str:
    """`host_file` is the node's own, used for pods on the host's network."""
    if pod.spec.host_network:
        text = "# Kubernetes-managed hosts file (host network).\n" + host_file
    else:
        text = "# Kubernetes-managed hosts file.\n" + _LOCAL
        name, full = hostname(pod), domain(pod, cluster_domain)
        for ip in pod_ips:
            text += f"{ip}\t{name}.{full}\t{name}\n" if full else f"{ip}\t{name}\n"
    if pod.spec.host_aliases:
        text += "\n# Entries added by HostAliases.\n"
        for alias in pod.spec.host_aliases:
            text += "\t".join([alias.ip, *alias.hostnames]) + "\n"
    return text


def parse_resolver(text: str) -> Resolver:
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith(("#", ";")):
            continue
        match words[0]:
            case "nameserver" if len(words) > 1:
                nameservers.append(words[1])
            case "search" | "domain":
                searches = words[1:]
            case "options":
                options = words[1:]
            case _:
                pass
    return Resolver(tuple(nameservers), tuple(searches), tuple(options))


def resolver(pod: Pod, host: Resolver, cluster_dns: Sequence[str], cluster_domain: str) -> Resolver:
    """What the pod's dnsPolicy and dnsConfig come to. ClusterFirst without a cluster DNS is Default, as upstream has
    it."""
    policy = pod.spec.dns_policy
    if policy == "ClusterFirst" and pod.spec.host_network:
        policy = "Default"
    if policy == "None":
        found = Resolver()
    elif policy.startswith("ClusterFirst") and cluster_dns:
        own = (f"{pod.metadata.namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain)
        searches = own if cluster_domain else ()
        found = Resolver(tuple(cluster_dns), (*searches, *host.searches), ("ndots:5",))
    else:
        found = host
    extra = pod.spec.dns_config
    if extra is not None:
        options = dict(option.partition(":")[::2] for option in found.options)
        options.update({option.name: option.value or "" for option in extra.options})
        found = Resolver(
            _unique((*found.nameservers, *extra.nameservers)),
            _unique((*found.searches, *extra.searches)),
            tuple(f"{name}:{value}" if value else name for name, value in options.items()),
        )
    return Resolver(found.nameservers[:MAX_NAMESERVERS], _fitting(_unique(found.searches)), found.options)


def _unique(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))


def _fitting(searches: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for search in searches[:MAX_SEARCHES]:
        if len(" ".join([*kept, search])) > MAX_SEARCH_LENGTH:
            break
        kept.append(search)
    return tuple(kept)


def resolver_file(found: Resolver) -> str:
    lines = [f"nameserver {server}" for server in found.nameservers]
    if found.searches:
        lines.insert(0, "search " + " ".join(found.searches))
    if found.options:
        lines.append("options " + " ".join(found.options))
    return "".join(line + "\n" for line in lines)
