"""A lab's trust: one CA and what it signs. Existing keys are kept, so that a repeated `up` keeps every kubeconfig valid; only
the user's own is written anew, because the port of the API on this machine may be another one by now."""

from pathlib import Path

from kube import certificates, trust
from lab.model import BRIDGE_ADDRESS, SERVICES, Lab, Node


def write(lab: Lab, nodes: tuple[Node, ...]) -> None:
    pki = Path(lab.state, "pki")
    outside = f"https://127.0.0.1:{lab.api_port}"
    if (pki / "done").exists():
        _config(Path(lab.state, "kubeconfig"), trust.read_pair(pki, "ca"), trust.ADMIN, outside)
        return
    centre = nodes[0]
    ca = certificates.authority("wherry-lab-ca")
    trust.write_pair(pki, "ca", ca)
    names = trust.api_names(str(SERVICES[1]), centre.name, str(centre.address), str(BRIDGE_ADDRESS))
    trust.write_pair(pki, "apiserver", certificates.issue(ca, "kube-apiserver", sans=names))
    trust.write_pair(pki, "apiserver-kubelet-client", trust.client(ca, trust.API_TO_KUBELET))
    trust.write_pair(pki, "prometheus", trust.client(ca, trust.PROMETHEUS))
    for name in ("kube-scheduler", "kube-controller-manager"):
        trust.write_pair(pki, name, certificates.issue(ca, name, sans=["localhost", "127.0.0.1", str(centre.address)]))
    inside = f"https://{centre.address}:6443"
    _config(Path(lab.state, "kubeconfig"), ca, trust.ADMIN, outside)
    _config(pki / "kube-scheduler.kubeconfig", ca, trust.SCHEDULER, inside)
    _config(pki / "kube-controller-manager.kubeconfig", ca, trust.CONTROLLERS, inside)
    for node in nodes:
        home = Path(node.state, "pki")
        kubelet = trust.kubelet(node.name)
        _config(home / "kubelet.kubeconfig", ca, kubelet, inside)
        _config(home / "proxy.kubeconfig", ca, trust.PROXY, inside)
        _config(home / "overlay.kubeconfig", ca, trust.OVERLAY, inside)
        sans = [node.name, str(node.address), "127.0.0.1"]
        trust.write_pair(home, "kubelet", certificates.issue(ca, kubelet.user, kubelet.groups, sans))
    (pki / "done").touch()


def _config(path: Path, ca: certificates.KeyPair, who: trust.Identity, server: str) -> None:
    trust.write(path, trust.client_config(ca, who, server).encode())
