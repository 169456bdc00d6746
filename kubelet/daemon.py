"""Wiring: informers, the runtime, probes, workers, the node's voice, and the servers; one TaskGroup owns them all.
 What wakes a pod: the API's watch, the runtime's hints, a probe's verdict, a ConfigMap or Secret, a timer of its own,
and the relist, which is the truth and comes each second, or each ten while hints flow.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import orjson

from kube import serving, settings
from kube.client import Client, Connection
from kube.errors import Retry, UsageError
from kube.events import Recorder, Reference
from kube.informer import Informer
from kube.pods import Pod
from kube.reconcile import Backoff, Keys, Wake, by_key, forever
from kube.resources import SERVICES
from kubelet import machine, node, runtimes, server
from kubelet.apply import Deeds, Means, Place, Told
from kubelet.checkpoint import Checkpoint
from kubelet.config import Config
from kubelet.lease import Heartbeat
from kubelet.manifests import FILE, HTTP, Fetched, Manifests, Reader
from kubelet.metrics import Metrics, Running
from kubelet.mirror import Mirrors
from kubelet.objects import Objects
from kubelet.observe import PodSource, RuntimeView
from kubelet.prober import Prober
from kubelet.probes import Probes, Target
from kubelet.publish import Publisher
from kubelet.runtime import EVERYTHING, Hint, Image, Runtime, RuntimeUnavailable, RuntimeVersion
from kubelet.tokens import Tokens
from kubelet.wanted import PODS_WHOLE
from kubelet.workers import Facts, Workers
from linux.cgroup import tree

log = logging.getLogger(__name__)

RELIST, RELIST_HINTED = 1.0, 10.0
LEFTOVERS = 60.0
PATIENCE = 5.0  # seconds that telling about the node may wait for the runtime


def clock() -> datetime:
    return datetime.now(UTC)


def node_name(config: Config) -> str:
    return config.hostname_override or socket.gethostname().lower()


def place_of(config: Config, ips: tuple[str, ...], facts: machine.Machine) -> Place:
    whole = node.capacity(facts, config.max_pods)
    try:
        left = node.allocatable(whole, config.kube_reserved, config.system_reserved)
    except ValueError as error:
        raise UsageError(f"kubeReserved, systemReserved: {error}; write amounts like 100m or 256Mi") from error
    return Place(
        root=config.root_dir,
        logs=config.pod_logs_dir,
        cgroup_root=config.cgroup_root,
        cluster_dns=config.cluster_dns,
        cluster_domain=config.cluster_domain,
        resolv_conf=config.resolv_conf,
        host_ips=ips,
        memory=facts.memory,
        allocatable=left,
    )


class Wiring:
    """The parts, put together; `run` runs them until cancelled."""

    def __init__(
        self,
        config: Config,
        client: Client,
        connection: Connection,
        runtime: Runtime,
        metrics: Metrics,
        trees: tree.Hierarchies,
    ) -> None:
        name = node_name(config)
        ip = config.node_ip or machine.address_towards(client.server)
        if not ip:
            raise UsageError("--node-ip: no address of this machine leads to the API server; name one")
        try:
            os.makedirs(os.path.join(config.root_dir, "pods"), mode=0o750, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--root-dir: cannot make {error.filename}: {error.strerror}") from error
        self.config, self.name, self.ips = config, name, (ip,)
        self._client, self.runtime, self.metrics = client, runtime, metrics
        self.keys: Keys[str] = Keys()
        self.view = RuntimeView(runtime, self._news)
        metrics.registry.register(Running(self.view))
        self.recorder = Recorder(client, "kubelet", name)
        self.told = Told(self.recorder)
        self.facts = machine.machine(config.root_dir)
        self.pods: Informer[Pod] = Informer(client, PODS_WHOLE, field_selector=f"spec.nodeName={name}")
        self.services = Informer(client, SERVICES)
        local = [kind for kind, where in ((FILE, config.static_pod_path), (HTTP, config.static_pod_url)) if where]
        self.source = PodSource(self.pods, self._pod_changed, local)
        self.checkpoint = Checkpoint(config.root_dir, self.pods, self.services)
        self.about = Reference("v1", "Node", "", name, name)
        self.objects = Objects(client, self._objects_changed)
        self.probes = Probes(
            Prober(runtime).attempt,
            changed=self._news,
            tell=self._probe_told,
        )
        self.publisher = Publisher(client, self.source.in_api, self._gone)
        means = Means(
            place=place_of(config, self.ips, self.facts),
            runtime=runtime,
            objects=self.objects,
            services=self.services,
            tokens=Tokens(client, clock),
            told=self.told,
            clock=clock,
        )
        self.deeds = Deeds(means, trees)
        self.workers = Workers(
            Facts(
                host_ips=self.ips,
                scheme=lambda: runtime.name,
                sync_frequency=config.sync_frequency,
                crash_cap=config.crash_loop_back_off.max_container_restart_period,
            ),
            self.source,
            self.view,
            self.deeds,
            self.probes,
            self.publisher,
            self.told,
            self.keys,
            started=metrics.pod_start.observe,
        )
        self.heartbeat = Heartbeat(connection, name, config.node_lease_duration_seconds)
        self.node_wake, self.relist_wake = Wake(), Wake()
        self.speaker = self._speaker(client)
        self.mirrors = Mirrors(client, self.source, name, self.speaker.registered.wait)
        self._version: RuntimeVersion | None = None
        self._failing = False
        self._leftovers_at = 0.0
        self.relisted_at = time.monotonic()

    def _manifests(self) -> Iterator[Manifests | Fetched]:
        """Where this node's static pods are named."""
        config = self.config
        if config.static_pod_path:
            reader = Reader(self.name, FILE, self._bad_manifest, clock)
            path, period = config.static_pod_path, config.file_check_frequency
            yield Manifests(path, reader, self.source.report, period)
        if config.static_pod_url:
            reader = Reader(self.name, HTTP, self._bad_manifest, clock)
            headers, period = config.static_pod_url_header, config.http_check_frequency
            yield Fetched(config.static_pod_url, headers, reader, self.source.report, period)

    async def _answered(self) -> None:
        """What there was to say of pods while the API had not answered is said now."""
        await self.source.answered()
        for pod in self.source.pods():
            self._pod_changed(pod.metadata.uid)

    def _bad_manifest(self, words: str) -> None:
        log.error("%s", words)
        self.recorder.event(self.about, "Warning", "FailedValidation", words)

    def _speaker(self, client: Client) -> node.Speaker:
        return node.Speaker(
            client=client,
            recorder=self.recorder,
            portrait=self._portrait,
            runtime_status=self.runtime.status,
            images=self._images,
            pressure=lambda: machine.pressure(self.config.root_dir),
            clock=clock,
            name=self.name,
            config=self.config,
        )

    async def _portrait(self) -> node.Portrait:
        if self._version is None:
            try:
                async with asyncio.timeout(PATIENCE):
                    self._version = await self.runtime.version()
            except (RuntimeUnavailable, TimeoutError) as error:
                log.warning("runtime version: %s", str(error) or "no answer")
        return node.Portrait(
            name=self.name, config=self.config, machine=self.facts, addresses=self.ips, version=self._version
        )

    async def _images(self) -> Sequence[Image]:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.runtime.list_images()
        except (RuntimeUnavailable, TimeoutError):
            return ()

    async def _beat(self) -> None:
        await self.speaker.registered.wait()
        await self.heartbeat.keep()

    def _pod_changed(self, uid: str) -> None:
        self.workers.wake(uid)

    def _news(self, uid: str) -> None:
        self.workers.look(uid)

    def _objects_changed(self, uid: str) -> None:
        self.workers.objects_changed(uid)

    def _gone(self, uid: str) -> None:
        self.workers.gone(uid)

    def _probe_told(self, target: Target, reason: str, message: str) -> None:
        self.told.container(target.pod, target.container.name, "Warning", reason, message)

    def _hint(self, hint: Hint) -> None:
        if hint == EVERYTHING:
            self.relist_wake.set()
            self.workers.wake_all()
        else:
            self.workers.look(hint.pod_uid)

    async def _relist(self) -> float:
        begun = time.monotonic()
        try:
            await self.view.relist()
        except Retry:
            self._failing = True
            self.node_wake.set()
            raise
        self.relisted_at = time.monotonic()
        self.metrics.relist.observe(self.relisted_at - begun)
        if self._failing:
            self._failing = False
            self.node_wake.set()
            self.workers.wake_all()
        self.workers.orphans()
        if time.monotonic() >= self._leftovers_at and self.source.synced:
            self._leftovers_at = time.monotonic() + LEFTOVERS
            self.workers.leftovers()
        return RELIST_HINTED if self.runtime.hinting() and self.source.synced else RELIST

    async def _pass(self, uid: str) -> float | None:
        begun = time.monotonic()
        try:
            return await self.workers.sync(uid)
        finally:
            self.metrics.pod_worker.labels("sync").observe(time.monotonic() - begun)

    async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the API server who somebody is, or what they may do."""
        answer: Mapping[str, Any] = orjson.loads(await self._client.request("POST", path, body=body))
        return answer

    def syncloop(self) -> str | None:
        """Upstream's healthz check of the same name: has the loop looked at the runtime lately, or tried to?"""
        age = time.monotonic() - self.relisted_at
        return f"no look at the runtime for {age:.0f} s" if age > 180 and not self._failing else None

    async def run(self) -> None:
        self.recorder.event(self.about, "Normal", "Starting", "Starting kubelet.")
        self.checkpoint.recall()
        try:
            async with asyncio.TaskGroup() as group:
                for work in (
                    *(place.run() for place in self._manifests()),
                    self.mirrors.run(),
                    self.checkpoint.run(),
                    self._answered(),
                    self.pods.run(),
                    self.services.run(),
                    self.recorder.run(),
                    self.objects.run(),
                    self.probes.run(),
                    self.publisher.run(),
                    self._beat(),
                    self.runtime.watch(self._hint),
                    forever(
                        self._relist,
                        self.relist_wake,
                        resync=RELIST_HINTED,
                        backoff=Backoff(first=0.5, most=5.0),
                        name="look at the runtime",
                    ),
                    by_key(
                        self._pass,
                        self.keys,
                        workers=self.config.max_pods,
                        backoff=Backoff(first=0.5, most=10.0),
                        name="pod",
                    ),
                    forever(
                        self.speaker.sync,
                        self.node_wake,
                        resync=self.config.node_status_update_frequency,
                        min_interval=0.2,
                        backoff=Backoff(first=0.2, most=5.0),
                        name="node status",
                    ),
                ):
                    group.create_task(work)
        finally:
            self.deeds.close()


def _policy(config: Config) -> server.Policy:
    """Who may use the API. Raises UsageError where nobody could."""
    known, asked = config.authentication, config.authorization
    if not (known.x509.client_ca_file or known.webhook.enabled or known.anonymous.enabled):
        raise UsageError(
            "authentication: nobody could use the kubelet's API: name the cluster's CA file (x509.clientCAFile, flag "
            "--client-ca-file) or turn webhook.enabled on"
        )
    return server.Policy(
        anonymous=known.anonymous.enabled,
        tokens=known.webhook.enabled,
        token_ttl=known.webhook.cache_ttl,
        mode=asked.mode,
        allowed_ttl=asked.webhook.cache_authorized_ttl,
        denied_ttl=asked.webhook.cache_unauthorized_ttl,
    )


def _log_goes_out() -> str | None:
    """Upstream's healthz check `log`."""
    try:
        os.fstat(2)
    except OSError as error:
        return f"standard error, where the log goes: {error.strerror}"
    return None


async def run(config: Config, ready: Callable[[], None]) -> None:
    """The kubelet, until cancelled. Pods stay as they are."""
    if os.geteuid() != 0:
        raise UsageError("the kubelet mounts volumes and writes cgroups: run it as root")
    name = node_name(config)
    connection = Connection.from_kubeconfig(config.kubeconfig)
    metrics = Metrics(name)
    runtime = runtimes.runtime_of(config, name, metrics.operation)
    runtimes.reach(config)
    tls = server.tls_context(
        name,
        config.tls_cert_file,
        config.tls_private_key_file,
        config.authentication.x509.client_ca_file,
        ciphers=config.tls_cipher_suites,
        least=config.tls_min_version,
    )
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(connection, user_agent="wherry-kubelet"))
        stack.push_async_callback(runtime.close)
        wiring = Wiring(config, client, connection, runtime, metrics, tree.hierarchies())
        checks: dict[str, serving.Check] = {"ping": lambda: None, "log": _log_goes_out, "syncloop": wiring.syncloop}
        access = server.Access(name, _policy(config), wiring.review)
        pages = server.Pages(
            checks=checks,
            routes={
                "/metrics": serving.metrics(metrics.registry),
                **server.container_metrics(
                    lambda: wiring.view.records, config.cgroup_root, config.pod_infra_container_image
                ),
                "/configz": serving.json(lambda: {"kubeletconfig": settings.render(config)}),
            },
            log_directory=os.path.dirname(config.pod_logs_dir.rstrip("/")) if config.enable_system_log_handler else "",
            log_query=config.enable_system_log_query,
            commands=config.enable_debugging_handlers,
            stream_patience=config.streaming_connection_idle_timeout,
        )
        api = server.Server(wiring.workers, runtime, access, pages)
        await stack.enter_async_context(server.serve(api.application(), config.address, config.port, tls))
        if config.read_only_port:
            public = api.application(read_only=True)
            await stack.enter_async_context(
                server.serve(public, config.address, config.read_only_port, None, flag="--read-only-port")
            )
        if config.healthz_port:
            health = serving.health(checks)
            routes = {"/healthz": health, "/livez": health}
            await stack.enter_async_context(
                serving.serve(config.healthz_bind_address, config.healthz_port, routes, flag="--healthz-port")
            )
        ready()
        await wiring.run()
