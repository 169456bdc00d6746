"""Which runtime the kubelet talks to, by the scheme of containerRuntimeEndpoint.

    unix:///run/containerd/containerd.sock   CRI v1: containerd, CRI-O
    docker:///var/run/docker.sock            the Docker Engine

Only the one that is asked for is imported.
"""

from __future__ import annotations

import socket

from kube import quantity
from kube.errors import UsageError
from kubelet.config import Config
from kubelet.runtime import Observer, Runtime


def runtime_of(config: Config, name: str, observe: Observer) -> Runtime:
    """`name` is the node's. Raises UsageError."""
    scheme, path = _parts(config)
    if scheme == "unix":
        return _cri(config, path, name, observe)
    return _docker(config, path, name, observe)


def reach(config: Config) -> None:
    """Somebody is behind the runtime's socket when the kubelet starts, as upstream insists; raises UsageError. Later on it
    may come and go."""
    scheme, path = _parts(config)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(path)
        except OSError as error:
            daemon = (
                "containerd (systemctl start containerd)" if scheme == "unix" else "Docker (systemctl start docker)"
            )
            raise UsageError(
                f"--container-runtime-endpoint {config.container_runtime_endpoint}: nobody answers there "
                f"({error.strerror or error}); start {daemon} or name its socket"
            ) from error


def _parts(config: Config) -> tuple[str, str]:
    scheme, mark, path = config.container_runtime_endpoint.partition("://")
    if not mark and scheme.startswith("/"):
        scheme, path = "unix", scheme  # a bare path, as upstream takes it
    if scheme not in ("unix", "docker") or not path.startswith("/"):
        raise UsageError(
            f"--container-runtime-endpoint: {config.container_runtime_endpoint!r}: write unix:///run/containerd/containerd.sock "
            "for a CRI runtime, docker:///var/run/docker.sock for Docker"
        )
    return scheme, path


def _cri(config: Config, path: str, name: str, observe: Observer) -> Runtime:
    from kubelet.cri import CriOptions, CriRuntime

    options = CriOptions(socket_path=path, node=name, root=config.root_dir, timeout=config.runtime_request_timeout)
    return CriRuntime(options, observe=observe)


def _docker(config: Config, path: str, name: str, observe: Observer) -> Runtime:
    from kubelet.docker import DockerOptions, DockerRuntime
    from kubelet.docker.spec import LogLimits
    from kubelet.network import Network

    network = Network(config.cni_conf_dir, config.cni_bin_dir, config.cni_cache_dir)
    options = DockerOptions(
        socket_path=path,
        node=name,
        root=config.root_dir,
        pause_image=config.pod_infra_container_image,
        logs=LogLimits(size=quantity.integer(config.container_log_max_size), files=config.container_log_max_files),
        timeout=config.runtime_request_timeout,
    )
    return DockerRuntime(options, network, observe=observe)
