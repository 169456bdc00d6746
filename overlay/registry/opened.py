"""The registry that a configuration names, opened."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kube.client import Client
from kube.errors import UsageError
from overlay import subnetenv
from overlay.config import Config, annotation_prefix
from overlay.registry import kube, memory
from overlay.subnets import Subnets


@contextlib.asynccontextmanager
async def opened(config: Config, *, read_only: bool = False) -> AsyncIterator[Subnets]:
    """Raises UsageError. `read_only`: nothing is taken there for this node."""
    if not config.kube:
        try:
            from kube.etcd import Access
            from overlay.registry import etcd
        except ImportError as error:
            raise UsageError(
                f"etcd as the registry needs the package grpcio ({error}): install wherry[etcd], or give --kubeconfig"
            ) from error
        access = Access(
            config.etcd_endpoints,
            config.etcd_cafile,
            config.etcd_certfile,
            config.etcd_keyfile,
            config.etcd_username,
            config.etcd_password,
            flag="--etcd-endpoints",
        )
        previous = subnetenv.read(Path(config.subnet_file))
        margin = config.subnet_lease_renew_margin * 60.0
        async with etcd.opened(
            access,
            config.etcd_prefix,
            previous=previous,
            renew_margin=margin,
            read_only=read_only,
            remembered=memory.leases(config.subnet_file),
        ) as subnets:
            yield subnets
        return
    net = kube.network(config.net_config_path)
    async with Client(kube.connection(config.kubeconfig, config.kube_api_url), user_agent="wherry-overlay") as client:
        yield kube.KubeSubnets(
            client,
            net,
            annotation_prefix(config.kube_annotation_prefix),
            node=config.hostname_override,
            condition=config.set_node_network_unavailable,
            remembered=memory.path(config.subnet_file),
            read_only=read_only,
        )
