"""A lab's trust: one CA and the certificates that upstream's names ask for.

See kubernetes.io/docs/setup/best-practices/certificates: admin is `system:masters`, a kubelet `system:node:<name>` in
`system:nodes`, the proxy and the control plane their well-known users; the API calls kubelets as
`kube-apiserver-kubelet-client`.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from kube import certificates, kubeconfig
from kube.certificates import KeyPair
from lab.model import BRIDGE_ADDRESS, SERVICES, Lab, Node


def write(lab: Lab, nodes: tuple[Node, ...]) -> None:
    """Lay out what is not there yet; existing keys are kept, so that a repeated `up` keeps every kubeconfig valid."""
    pki = Path(lab.state, "pki")
    if (pki / "done").exists():
        return
    centre = nodes[0]
    ca = certificates.authority("wherry-lab-ca")
    _pair(pki, "ca", ca)
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", centre.name]
    addresses = [str(a) for a in ("127.0.0.1", centre.address, SERVICES[1], BRIDGE_ADDRESS)]
    _pair(pki, "apiserver", certificates.issue(ca, "kube-apiserver", sans=[*names, *addresses]))
    client = certificates.issue(ca, "kube-apiserver-kubelet-client", ["system:masters"])
    _pair(pki, "apiserver-kubelet-client", client)
    inner = f"https://{centre.address}:6443"
    _user(
        ca, Path(lab.state, "kubeconfig"), f"https://127.0.0.1:{lab.api_port}", "kubernetes-admin", ["system:masters"]
    )
    for name in ("kube-scheduler", "kube-controller-manager"):
        _user(ca, pki / f"{name}.kubeconfig", inner, f"system:{name}")
        _pair(pki, name, certificates.issue(ca, name, sans=["localhost", "127.0.0.1", str(centre.address)]))
    _pair(pki, "prometheus", certificates.issue(ca, "prometheus", ["system:masters"]))
    for node in nodes:
        home = Path(node.state, "pki")
        _user(ca, home / "kubelet.kubeconfig", inner, f"system:node:{node.name}", ["system:nodes"])
        _user(ca, home / "proxy.kubeconfig", inner, "system:kube-proxy", ["system:node-proxier"])
        _user(ca, home / "overlay.kubeconfig", inner, "system:flannel")
        serving = certificates.issue(
            ca, f"system:node:{node.name}", ["system:nodes"], [node.name, str(node.address), "127.0.0.1"]
        )
        _pair(home, "kubelet", serving)
    (pki / "done").touch()


def _user(ca: KeyPair, path: Path, server: str, name: str, groups: Iterable[str] = ()) -> None:
    pair = certificates.issue(ca, name, groups)
    _private(path, kubeconfig.render(server, ca.certificate, pair.certificate, pair.key, user=name).encode())


def _pair(folder: Path, name: str, pair: KeyPair) -> None:
    _private(folder / f"{name}.key", pair.key)
    _private(folder / f"{name}.crt", pair.certificate, mode=0o644)


def _private(path: Path, content: bytes, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
