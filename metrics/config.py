"""Configuration of the metrics daemon: MetricsConfiguration, wherry.io/v1alpha1. Flags that cAdvisor has are named as its."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from kube import settings
from kube.settings import Option


class Config(msgspec.Struct, frozen=True, kw_only=True):
    listen_ip: Annotated[str, Option("--listen_ip", "address to serve on; all when empty", key="listenIP")] = ""
    port: Annotated[int, Option("--port", "port to serve on; 0 takes a free one")] = 8080
    docker: Annotated[str, Option("--docker", "Docker's endpoint, for container names; empty: none")] = (
        "unix:///var/run/docker.sock"
    )
    containerd: Annotated[
        str,
        Option("--containerd", "containerd's state directory, for container names; empty: none; wins over --docker"),
    ] = ""
    cgroup_root: Annotated[str, Option("--cgroup-root", "the cgroup below which to look")] = "/"
    node_name: Annotated[
        str, Option("--node-name", "only containers of this node (label io.wherry.node), where several share a machine")
    ] = ""


def load(argv: Sequence[str]) -> Config:
    return settings.load(
        Config,
        argv,
        prog="wherry-metrics",
        description="Container and machine metrics under cAdvisor's names, for Prometheus.",
        api_version="wherry.io/v1alpha1",
        document_kind="MetricsConfiguration",
    )
