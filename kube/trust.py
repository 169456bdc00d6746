"""Who is who in a cluster: upstream's user and group names, and laying their certificates out on disk.

See kubernetes.io/docs/setup/best-practices/certificates. The CN of a client certificate is the user, each O a group.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from kube import certificates, kubeconfig
from kube.certificates import KeyPair


@dataclass(frozen=True, slots=True)
class Identity:
    user: str
    groups: tuple[str, ...] = ()


ADMIN = Identity("kubernetes-admin", ("system:masters",))
API_TO_KUBELET = Identity("kube-apiserver-kubelet-client", ("system:masters",))
SCHEDULER = Identity("system:kube-scheduler")
CONTROLLERS = Identity("system:kube-controller-manager")
PROXY = Identity("system:kube-proxy", ("system:node-proxier",))
OVERLAY = Identity("system:flannel")
PROMETHEUS = Identity("prometheus", ("system:masters",))


def kubelet(node: str) -> Identity:
    return Identity(f"system:node:{node}", ("system:nodes",))


def api_names(service_address: str, *more: str) -> list[str]:
    """What the API server's certificate must answer to, besides `more` (its own names and addresses)."""
    inside = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    return [*inside, "localhost", "127.0.0.1", service_address, *more]


def client(ca: KeyPair, who: Identity) -> KeyPair:
    return certificates.issue(ca, who.user, who.groups)


def client_config(ca: KeyPair, who: Identity, server: str) -> str:
    """A kubeconfig with a fresh client certificate for `who`, everything inline."""
    pair = client(ca, who)
    return kubeconfig.render(server, ca.certificate, pair.certificate, pair.key, user=who.user)


def write_pair(folder: Path, name: str, pair: KeyPair) -> None:
    """`name.crt`, readable by all, and `name.key`, readable by root."""
    write(folder / f"{name}.key", pair.key)
    write(folder / f"{name}.crt", pair.certificate, mode=0o644)


def read_pair(folder: Path, name: str) -> KeyPair:
    return KeyPair((folder / f"{name}.crt").read_bytes(), (folder / f"{name}.key").read_bytes())


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """The whole file or none of it, with `mode` from its first moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # a umask may have taken bits away
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
