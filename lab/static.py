"""The control plane as static pods of node1's kubelet: manifests by file name. Pure.

Their image has directories and nothing else. Interpreter, libraries and Wherry's own code are mounted read-only from this
machine, where they are anyway: nothing is copied, an edited file is what the next start runs, and a pod starts as fast as
its process. Names, namespace, labels and probes are kubeadm's.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from lab.model import API_PORT, ETCD_METRICS_PORT, Daemon, Lab, Node, StaticImage

NAMES = {
    "etcd": "etcd",
    "apiserver": "kube-apiserver",
    "controllers": "kube-controller-manager",
    "scheduler": "kube-scheduler",
}
"""A daemon's name here, and its pod's."""

_PORTS = {"apiserver": (API_PORT, "HTTPS"), "controllers": (10257, "HTTPS"), "scheduler": (10259, "HTTPS")}
_PATHS = {
    "apiserver": ("/livez", "/readyz"),
    "controllers": ("/healthz", "/readyz"),
    "scheduler": ("/livez", "/readyz"),
}
_CPU = {"etcd": "100m", "apiserver": "250m", "controllers": "200m", "scheduler": "100m"}


def names(lab: Lab) -> list[str]:
    """The static pods' names, without their node's."""
    return [name for short, name in NAMES.items() if lab.etcd or short != "etcd"]


def manifests(lab: Lab, centre: Node, image: StaticImage, daemons: tuple[Daemon, ...]) -> dict[str, str]:
    """The centre's daemons as files of the kubelet's staticPodPath, by path."""
    found = {}
    for daemon in daemons:
        short = daemon.name.rpartition("/")[2]
        pod = _pod(lab, centre, image, short, daemon)
        text = yaml.safe_dump(pod, sort_keys=False, width=120)
        found[f"{centre.state}/manifests/{NAMES[short]}.yaml"] = text
    return found


def _pod(lab: Lab, centre: Node, image: StaticImage, short: str, daemon: Daemon) -> dict[str, Any]:
    name = NAMES[short]
    writable = {"apiserver": f"{centre.state}/apiserver", "etcd": f"{centre.state}/etcd"}.get(short)
    readable = [*image.mounts, f"{lab.state}/pki", f"{centre.state}/{short}.yaml"]
    if short == "etcd":
        readable = list(image.mounts)
    volumes = [_volume(f"readonly-{number}", path) for number, path in enumerate(readable)]
    mounts: list[dict[str, Any]] = [
        {"name": f"readonly-{number}", "mountPath": path, "readOnly": True} for number, path in enumerate(readable)
    ]
    if writable:
        volumes.append(_volume("data", writable, "DirectoryOrCreate"))
        mounts.append({"name": "data", "mountPath": writable})
    container = {
        "name": name,
        "image": image.name,
        "imagePullPolicy": "Never",
        "command": list(daemon.argv),
        "env": [{"name": key, "value": value} for key, value in daemon.env.items()],
        "resources": {"requests": {"cpu": _CPU[short]}},
        "volumeMounts": mounts,
        **_probes(short),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "kube-system",
            "labels": {"component": name, "tier": "control-plane"},
        },
        "spec": {
            "hostNetwork": True,
            "priorityClassName": "system-node-critical",
            "priority": 2000001000,
            "terminationGracePeriodSeconds": 10,
            "containers": [container],
            "volumes": volumes,
        },
    }


def _volume(name: str, path: str, kind: str = "") -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": path, "type": kind} if kind else {"path": path}}


def _probes(short: str) -> Mapping[str, Any]:
    """A second between looks while it starts, so that a lab is up soon; then as seldom as kubeadm's."""
    port, scheme = _PORTS.get(short, (ETCD_METRICS_PORT, "HTTP"))
    alive, ready = _PATHS.get(short, ("/health?serializable=true", "/health"))

    def ask(path: str) -> dict[str, Any]:
        return {"httpGet": {"host": "127.0.0.1", "path": path, "port": port, "scheme": scheme}, "timeoutSeconds": 15}

    return {
        "startupProbe": {**ask(alive), "periodSeconds": 1, "failureThreshold": 120},
        "livenessProbe": {**ask(alive), "periodSeconds": 10, "failureThreshold": 8},
        "readinessProbe": {**ask(ready), "periodSeconds": 5, "failureThreshold": 3},
    }
