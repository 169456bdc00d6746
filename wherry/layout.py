"""What an installation consists of: files by path below the root, for a server and for an agent. Pure but for the keys.

/etc/wherry/                      configuration, kubeconfigs, pki/ (private), bundles/ (one a node, on the server)
/etc/systemd/system/              wherry-*.service, wherry.target
/etc/cni/net.d/10-wherry.conflist and /opt/wherry/cni/bin/*: how pods of this node get their network
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from kube import certificates, trust
from kube.certificates import KeyPair
from kube.errors import UsageError

ETC = "etc/wherry"
UNITS = "etc/systemd/system"
CONFLIST = "etc/cni/net.d/10-wherry.conflist"
PLUGINS = "opt/wherry/cni/bin"
CONTAINERD = "unix:///run/containerd/containerd.sock"

PODS = IPv4Network("10.244.0.0/16")
SERVICES = IPv4Network("10.96.0.0/16")

CENTRE_UNITS = ("wherry-apiserver", "wherry-scheduler", "wherry-controllers")
AGENT_UNITS = ("wherry-cni", "wherry-kubelet", "wherry-proxy", "wherry-overlay", "wherry-metrics")

_BUNDLED = (
    "node.json",
    "kubelet.kubeconfig",
    "proxy.kubeconfig",
    "overlay.kubeconfig",
    "pki/ca.crt",
    "pki/kubelet.crt",
    "pki/kubelet.key",
)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_REMEDY = "name a file that `wherry install server --node NAME=ADDRESS` wrote"


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class About:
    """A node's own words, in its bundle and then in /etc/wherry/node.json: name, address, the range of all pods."""

    node: str
    address: IPv4Address
    pods: IPv4Network

    @classmethod
    def parse(cls, text: bytes) -> "About":
        """Raises ValueError."""
        found = json.loads(text)
        if not isinstance(found, dict) or found.keys() != {"node", "address", "pods"}:
            raise ValueError("expected node, address and pods")
        return cls(node_name(str(found["node"])), IPv4Address(str(found["address"])), IPv4Network(str(found["pods"])))

    def render(self) -> bytes:
        return json.dumps({"node": self.node, "address": str(self.address), "pods": str(self.pods)}).encode() + b"\n"

    @property
    def kubelet_flags(self) -> str:
        """What upstream keeps out of KubeletConfiguration."""
        return f"--hostname-override={self.node} --node-ip={self.address}"


def node_name(text: str) -> str:
    """A name that a Node can have; raises ValueError."""
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(f"{text!r} is no node name: write lower-case letters, digits, '-' and '.', such as node1")
    return text


@dataclass(frozen=True, slots=True)
class Server:
    """`address` is where nodes and people reach the API; `nodes` are those to prepare bundles for, by name."""

    address: IPv4Address
    nodes: Mapping[str, IPv4Address]
    pods: IPv4Network = PODS
    services: IPv4Network = SERVICES

    @property
    def url(self) -> str:
        return f"https://{self.address}:6443"


def server_files(server: Server, ca: KeyPair) -> dict[str, File]:
    pki = f"/{ETC}/pki"
    names = trust.api_names(str(server.services[1]), str(server.address))
    apiserver = {
        "bindAddress": "0.0.0.0",
        "advertiseAddress": str(server.address),
        "tlsCertFile": f"{pki}/apiserver.crt",
        "tlsPrivateKeyFile": f"{pki}/apiserver.key",
        "clientCaFile": f"{pki}/ca.crt",
        "kubeletClientCertificate": f"{pki}/apiserver-kubelet-client.crt",
        "kubeletClientKey": f"{pki}/apiserver-kubelet-client.key",
        "kubeletCertificateAuthority": f"{pki}/ca.crt",
        "serviceClusterIPRange": str(server.services),
    }
    controllers = {
        "kubeconfig": f"/{ETC}/controllers.kubeconfig",
        "rootCaFile": f"{pki}/ca.crt",
        "allocateNodeCIDRs": True,
        "clusterCIDR": [str(server.pods)],
    }
    scheduler = {"clientConnection": {"kubeconfig": f"/{ETC}/scheduler.kubeconfig"}}
    files = {
        f"{ETC}/apiserver.yaml": _config("wherry.io/v1alpha1", "ApiServerConfiguration", apiserver),
        f"{ETC}/controllers.yaml": _config("wherry.io/v1alpha1", "ControllersConfiguration", controllers),
        f"{ETC}/scheduler.yaml": _config("kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration", scheduler),
        f"{ETC}/admin.kubeconfig": _kubeconfig(ca, trust.ADMIN, server.url),
        f"{ETC}/scheduler.kubeconfig": _kubeconfig(ca, trust.SCHEDULER, server.url),
        f"{ETC}/controllers.kubeconfig": _kubeconfig(ca, trust.CONTROLLERS, server.url),
        **_pair("apiserver", certificates.issue(ca, "kube-apiserver", sans=names)),
        **_pair("apiserver-kubelet-client", trust.client(ca, trust.API_TO_KUBELET)),
    }
    for name, address in server.nodes.items():
        files[f"{ETC}/bundles/{name}.tar"] = File(_bundle(server, ca, name, address), 0o600)
    return files


def _bundle(server: Server, ca: KeyPair, name: str, address: IPv4Address) -> bytes:
    """Everything that makes a host this node of this cluster: a tar to carry there by a private way."""
    kubelet = trust.kubelet(name)
    serving = certificates.issue(ca, kubelet.user, kubelet.groups, [name, str(address), "127.0.0.1"])
    files = {
        "node.json": File(About(name, address, server.pods).render()),
        "kubelet.kubeconfig": _kubeconfig(ca, kubelet, server.url),
        "proxy.kubeconfig": _kubeconfig(ca, trust.PROXY, server.url),
        "overlay.kubeconfig": _kubeconfig(ca, trust.OVERLAY, server.url),
        "pki/ca.crt": File(ca.certificate),
        "pki/kubelet.crt": File(serving.certificate),
        "pki/kubelet.key": File(serving.key, 0o600),
    }
    assert files.keys() == set(_BUNDLED)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, file in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(file.content), file.mode
            tar.addfile(entry, io.BytesIO(file.content))
    return out.getvalue()


def read_bundle(content: bytes) -> dict[str, File]:
    """A bundle's files by name: those that `_bundle` writes, no more and no fewer. Raises UsageError for anything else."""
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for entry in tar:
                data = tar.extractfile(entry)
                if data:
                    files[entry.name] = File(data.read(), _mode(entry.name))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UsageError(f"--bundle: {error}; {_REMEDY}") from error
    for name in (*_BUNDLED, *files):
        if name not in files:
            raise UsageError(f"--bundle: {name} is missing; {_REMEDY}")
        if name not in _BUNDLED:
            raise UsageError(f"--bundle: {name!r} does not belong there; {_REMEDY}")
    about(files)
    return files


def about(bundle: Mapping[str, File]) -> About:
    """What a bundle says of its node; raises UsageError."""
    try:
        return About.parse(bundle["node.json"].content)
    except ValueError as error:
        raise UsageError(f"--bundle: node.json: {error}; {_REMEDY}") from error


def agent_files(bundle: Mapping[str, File], conflist: bytes, runtime: str = "docker") -> dict[str, File]:
    """`runtime`: docker or containerd, where their packages put them."""
    node = about(bundle)
    pki = f"/{ETC}/pki"
    kubelet = {
        **({"containerRuntimeEndpoint": CONTAINERD} if runtime == "containerd" else {}),
        "authentication": {"x509": {"clientCAFile": f"{pki}/ca.crt"}},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "failSwapOn": False,  # a host keeps its swap; containers with a memory limit get none of it
    }
    proxy = {
        "clientConnection": {"kubeconfig": f"/{ETC}/proxy.kubeconfig"},
        "hostnameOverride": node.node,
        "bindAddress": str(node.address),
        "clusterCIDR": str(node.pods),
    }
    overlay = {
        "kubeconfig": f"/{ETC}/overlay.kubeconfig",
        "netConfigPath": f"/{ETC}/net-conf.json",
        "hostnameOverride": node.node,
        "iface": str(node.address),
        "ipMasq": True,
    }
    network = {"Network": str(node.pods), "Backend": {"Type": "vxlan"}}
    names = {"docker": "", "containerd": "/run/containerd"} if runtime == "containerd" else {}
    metrics = {"nodeName": node.node, **names}
    return {
        **{f"{ETC}/{name}": file for name, file in bundle.items()},
        f"{ETC}/kubelet.yaml": _config("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", kubelet),
        f"{ETC}/proxy.yaml": _config("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", proxy),
        f"{ETC}/overlay.yaml": _config("wherry.io/v1alpha1", "OverlayConfiguration", overlay),
        f"{ETC}/metrics.yaml": _config("wherry.io/v1alpha1", "MetricsConfiguration", metrics),
        f"{ETC}/net-conf.json": File(json.dumps(network, indent=2).encode() + b"\n"),
        CONFLIST: File(conflist),
    }


def fitted(unit: str, programs: Path, needed: Iterable[Path], more: str = "") -> str:
    """A shipped unit for programs that lie in `programs` and need the directories `needed`; `more` are flags to add.

    A sandbox must not hide the program it starts: out of home directories it is left readable, out of /tmp not replaced.
    """
    text = unit.replace("/opt/wherry/bin", str(programs))
    if more:
        text = re.sub(r"^(ExecStart=.*)$", rf"\1 {more}", text, flags=re.MULTILINE)
    places = [programs, *needed]
    if any(place.is_relative_to(home) for place in places for home in ("/home", "/root", "/run/user")):
        text = text.replace("ProtectHome=yes", "ProtectHome=read-only")
    if any(place.is_relative_to(temporary) for place in places for temporary in ("/tmp", "/var/tmp")):
        # Below ProtectSystem=strict the shared /tmp would be read-only, unlike a private one.
        text = text.replace("PrivateTmp=yes\n", "ReadWritePaths=/tmp /var/tmp\n")
    return text


def _mode(name: str) -> int:
    return 0o600 if name.endswith((".key", ".kubeconfig")) else 0o644


def _config(api_version: str, kind: str, keys: Mapping[str, Any]) -> File:
    return File(json.dumps({"apiVersion": api_version, "kind": kind, **keys}, indent=2).encode() + b"\n")


def _kubeconfig(ca: KeyPair, who: trust.Identity, server: str) -> File:
    return File(trust.client_config(ca, who, server).encode(), 0o600)


def _pair(name: str, pair: KeyPair) -> dict[str, File]:
    return {f"{ETC}/pki/{name}.crt": File(pair.certificate), f"{ETC}/pki/{name}.key": File(pair.key, 0o600)}
