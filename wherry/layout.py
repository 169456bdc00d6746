"""What an installation consists of: files by path below the root, for a server and for an agent. Pure but for the keys.

/etc/wherry/                      configuration, kubeconfigs, pki/ (private), bundles/ (one a node, on the server)
/etc/systemd/system/              wherry-*.service, wherry.target
/etc/cni/net.d/10-wherry.conflist and /opt/wherry/cni/bin/wherry-cni: how pods of this node get their network
"""

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from kube import certificates, trust
from kube.certificates import KeyPair
from kube.errors import UsageError

ETC = "etc/wherry"
UNITS = "etc/systemd/system"
CONFLIST = "etc/cni/net.d/10-wherry.conflist"
PLUGINS = "opt/wherry/cni/bin"

PODS = IPv4Network("10.244.0.0/16")
SERVICES = IPv4Network("10.96.0.0/16")

CENTRE_UNITS = ("wherry-apiserver", "wherry-scheduler", "wherry-controllers")
AGENT_UNITS = ("wherry-kubelet", "wherry-proxy", "wherry-overlay", "wherry-metrics")


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int = 0o644


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
    about = {"node": name, "address": str(address), "pods": str(server.pods)}
    files = {
        "node.json": File(json.dumps(about).encode()),
        "kubelet.kubeconfig": _kubeconfig(ca, kubelet, server.url),
        "proxy.kubeconfig": _kubeconfig(ca, trust.PROXY, server.url),
        "overlay.kubeconfig": _kubeconfig(ca, trust.OVERLAY, server.url),
        "pki/ca.crt": File(ca.certificate),
        "pki/kubelet.crt": File(serving.certificate),
        "pki/kubelet.key": File(serving.key, 0o600),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, file in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(file.content), file.mode
            tar.addfile(entry, io.BytesIO(file.content))
    return out.getvalue()


def read_bundle(content: bytes) -> dict[str, File]:
    """A bundle's files by name; raises UsageError for what is none."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = {}
            for entry in tar:
                data = tar.extractfile(entry)
                if data and not entry.name.startswith("/") and ".." not in entry.name.split("/"):
                    files[entry.name] = File(
                        data.read(), 0o600 if entry.name.endswith((".key", ".kubeconfig")) else 0o644
                    )
    except tarfile.TarError as error:
        raise UsageError(
            f"--bundle: {error}; name a file that `wherry install server --node NAME=ADDRESS` wrote"
        ) from error
    if "node.json" not in files:
        raise UsageError(
            "--bundle: node.json is missing; name a file that `wherry install server --node NAME=ADDRESS` wrote"
        )
    return files


def agent_files(bundle: Mapping[str, File], conflist: bytes) -> dict[str, File]:
    about = json.loads(bundle["node.json"].content)
    pki = f"/{ETC}/pki"
    kubelet = {
        "authentication": {"x509": {"clientCAFile": f"{pki}/ca.crt"}},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
    }
    proxy = {
        "clientConnection": {"kubeconfig": f"/{ETC}/proxy.kubeconfig"},
        "hostnameOverride": about["node"],
        "bindAddress": about["address"],
        "clusterCIDR": about["pods"],
    }
    network = {"Network": about["pods"], "Backend": {"Type": "vxlan"}}
    return {
        **{f"{ETC}/{name}": file for name, file in bundle.items()},
        f"{ETC}/kubelet.yaml": _config("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration", kubelet),
        f"{ETC}/proxy.yaml": _config("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", proxy),
        f"{ETC}/metrics.yaml": _config("wherry.io/v1alpha1", "MetricsConfiguration", {"nodeName": about["node"]}),
        f"{ETC}/net-conf.json": File(json.dumps(network, indent=2).encode() + b"\n"),
        CONFLIST: File(conflist),
    }


def unit_arguments(bundle: Mapping[str, File]) -> dict[str, str]:
    """Flags to add to a node's units: those upstream keeps out of its configuration files."""
    about = json.loads(bundle["node.json"].content)
    return {
        "wherry-kubelet": f" --hostname-override={about['node']} --node-ip={about['address']}",
        "wherry-overlay": f" --hostname-override={about['node']} --iface={about['address']}",
    }


def _config(api_version: str, kind: str, keys: Mapping[str, Any]) -> File:
    return File(json.dumps({"apiVersion": api_version, "kind": kind, **keys}, indent=2).encode() + b"\n")


def _kubeconfig(ca: KeyPair, who: trust.Identity, server: str) -> File:
    return File(trust.client_config(ca, who, server).encode(), 0o600)


def _pair(name: str, pair: KeyPair) -> dict[str, File]:
    return {f"{ETC}/pki/{name}.crt": File(pair.certificate), f"{ETC}/pki/{name}.key": File(pair.key, 0o600)}
