"""Wiring: the informers, the loops over them, one of several copies at work, a small HTTPS server that tells how it goes."""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controllers import accounttokens, kinds
from controllers.config import Config
from controllers.deployments import Deployments
from controllers.disruption import Disruptions
from controllers.endpoints import Endpoints
from controllers.evictions import Evictions
from controllers.garbage import Garbage
from controllers.namespaces import Furnishings, Namespaces
from controllers.nodes import Nodes
from controllers.observe import World
from controllers.plan.podcidrs import Pool
from controllers.podcidrs import PodCIDRs
from controllers.podgc import PodGC
from controllers.protection import Protection
from controllers.quota import Quotas
from controllers.replicasets import ReplicaSets
from kube import selfsigned, serving
from kube.client import Client, Connection
from kube.election import Election, Terms
from kube.errors import ApiError, ApiUnreachable, UsageError
from kube.events import Recorder
from kube.informer import Informer
from kube.meta import Typed
from kube.reconcile import Backoff, Keys
from kube.resources import CONFIGMAPS, SECRETS, Resource
from kube.settings import render

log = logging.getLogger(__name__)


class Loop(Protocol):
    async def run(self) -> None: ...


class Depths(Collector):
    """workqueue_depth: how many keys wait for their pass, by loop, as upstream names it."""

    def __init__(self) -> None:
        self.queues: Mapping[str, Keys[str]] = {}

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily("workqueue_depth", "Current depth of workqueue.", labels=("name",))
        for name, keys in self.queues.items():
            family.add_metric((name,), keys.pending())
        yield family


class Controllers:
    """One term at work: fresh informers, then the loops. Loops begin when every informer has its first list: half a
    picture would make them delete what they do not see."""

    def __init__(self, config: Config, client: Client, depths: Depths) -> None:
        self._config = config
        self._client = client
        self._depths = depths
        self._pools = pools(config) if config.allocate_node_cidrs else []
        self._root_ca = root_ca(config.root_ca_file)
        self.synced = False

    async def run(self) -> None:
        config = self._config
        world = World(self._client, await self._served())
        certificates = Informer(self._client, CONFIGMAPS, field_selector=f"metadata.name={Furnishings.ROOT_CA}")
        account_tokens = Informer(self._client, SECRETS, field_selector=f"type={accounttokens.TYPE}")
        recorders = {name: Recorder(self._client, name) for name in _COMPONENTS}
        loops: dict[str, Loop] = {
            "deployment": Deployments(world, recorders["deployment-controller"]),
            "replicaset": ReplicaSets(world, recorders["replicaset-controller"]),
            "endpoint_slice": Endpoints(world, recorders["endpoint-slice-controller"]),
            "node_lifecycle_controller": Nodes(
                world, recorders["node-controller"], config.node_monitor_grace_period, config.node_startup_grace_period
            ),
            "noexec_taint_pod": Evictions(world, recorders["taint-eviction-controller"]),
            "pod_gc": PodGC(world, recorders["pod-garbage-collector"]),
            "garbage_collector": Garbage(world),
            "namespace": Namespaces(world),
            "resource_quota": Quotas(world),
            "disruption": Disruptions(world, recorders["controllermanager"]),
            "pvc_protection": Protection(world),
            "furnishings": Furnishings(world, certificates, self._root_ca),
            "serviceaccount_token": accounttokens.AccountTokens(world, account_tokens, self._root_ca),
        }
        if self._pools:
            loops["node_ipam"] = PodCIDRs(world, recorders["node-ipam-controller"], self._pools)
        self._depths.queues = {name: loop.keys for name, loop in loops.items() if hasattr(loop, "keys")}
        try:
            async with asyncio.TaskGroup() as group:
                for recorder in recorders.values():
                    group.create_task(recorder.run())
                informers: list[Informer[Any]] = [certificates, account_tokens, *world.informers.values()]
                early = (world.namespaces, world.service_accounts, certificates)
                for informer in sorted(informers, key=lambda one: one not in early):
                    group.create_task(informer.run())
                for informer in early:
                    await informer.synced.wait()
                group.create_task(loops.pop("furnishings").run())  # pods of new namespaces wait for what it makes
                for informer in informers:
                    await informer.synced.wait()
                self.synced = True
                log.info("watching %d kinds; %d loops begin", len(informers), len(loops) + 1)
                for loop in loops.values():
                    group.create_task(loop.run())
        finally:
            self.synced = False

    async def _served(self) -> list[Resource[Typed]]:
        backoff, failures = Backoff(first=0.2, most=5.0), 0
        served: list[Resource[Typed]] = []
        while not served:
            try:
                served = await kinds.discover(self._client)
            except (ApiError, ApiUnreachable) as error:
                failures += 1
                log.warning("discovery: %s", error)
                await asyncio.sleep(backoff.delay(failures))
        return served


_COMPONENTS = (
    "deployment-controller",
    "replicaset-controller",
    "endpoint-slice-controller",
    "node-controller",
    "taint-eviction-controller",
    "pod-garbage-collector",
    "node-ipam-controller",
    "controllermanager",
)


def pools(config: Config) -> list[Pool]:
    """The ranges that nodes' are cut from; raises UsageError."""
    return list(_pools(config))


def _pools(config: Config) -> Iterator[Pool]:
    seen: set[int] = set()
    if not config.cluster_cidr:
        raise UsageError(
            "--cluster-cidr is required with --allocate-node-cidrs; give a range, or --allocate-node-cidrs=false"
        )
    for text in config.cluster_cidr:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise UsageError(f"--cluster-cidr: {error}; write it like 10.244.0.0/16") from error
        six = network.version == 6
        flag = "--node-cidr-mask-size-ipv6" if six else "--node-cidr-mask-size"
        prefix = config.node_cidr_mask_size_ipv6 if six else config.node_cidr_mask_size
        if not network.prefixlen <= prefix <= network.max_prefixlen:
            raise UsageError(f"{flag}: a /{prefix} cannot be cut from {network}; give {network.prefixlen} or more")
        if prefix - network.prefixlen > 16:
            raise UsageError(
                f"{flag}: {network} holds more than 65536 ranges of /{prefix}; give a smaller range or prefix"
            )
        if network.version in seen:
            raise UsageError(f"--cluster-cidr: {text} is a second IPv{network.version} range; give one a family")
        seen.add(network.version)
        yield Pool(network, prefix)


def root_ca(path: str) -> str:
    """The PEM bundle; raises UsageError."""
    if not path:
        return ""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--root-ca-file {path}: {error}; name a readable PEM file") from error
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UsageError(f"--root-ca-file {path}: there is no certificate in it; name a PEM file")
    return text


async def run(config: Config, ready: Callable[[], None]) -> None:
    """Control until cancelled."""
    connection = Connection.from_kubeconfig(config.kubeconfig)
    tls = selfsigned.given_or_made(config.tls_cert_file, config.tls_private_key_file, "wherry-controllers")
    registry = CollectorRegistry()
    depths = Depths()
    registry.register(depths)
    async with Client(connection, user_agent="wherry-controllers") as client:
        controllers = Controllers(config, client, depths)
        elect = config.leader_election
        terms = Terms(elect.lease_duration, elect.renew_deadline, elect.retry_period)
        election = Election(client, elect.resource_name, elect.resource_namespace, terms)

        def informed() -> str | None:
            idle = elect.leader_elect and not election.leading
            return None if idle or controllers.synced else "informers have not synced"

        routes = {
            "/healthz": serving.health({"ping": lambda: None}),
            "/livez": serving.health({"ping": lambda: None}),
            "/readyz": serving.health({"ping": lambda: None, "informer-sync": informed}),
            "/metrics": serving.metrics(registry),
            "/configz": serving.json(lambda: {"wherry.io": render(config)}),
        }
        async with serving.serve(
            config.bind_address, config.secure_port, routes, tls=tls, flag="--bind-address or --secure-port"
        ):
            ready()
            work: Callable[[], Awaitable[None]] = controllers.run
            await (election.lead(work) if elect.leader_elect else work())
