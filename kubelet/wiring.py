"""Wiring: informers, the runtime, probes, workers, the node's voice, and the servers; one TaskGroup owns them all.

What wakes a pod: the API's watch, the runtime's hints, a probe's verdict, a ConfigMap or Secret, a timer of its own,
and the relist, which is the truth and comes each second, or each ten while hints flow.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry

from kube.client import Client, Connection
from kube.errors import Retry, UsageError
from kube.events import Recorder, Reference
from kube.informer import Informer
from kube.pods import Pod
from kube.reconcile import Backoff, Keys, Wake, by_key, foreseen, forever
from kube.resources import NODES, RUNTIMECLASSES, SERVICES
from kubelet import frugal
from kubelet.admission.fit import Ground
from kubelet.admission.gate import Gate, has_apparmor
from kubelet.admission.sysctls import Allowlist
from kubelet.apply import Deeds, Means, Place, Told
from kubelet.config import Config
from kubelet.metrics import Metrics, Mounted, Running, Wanted
from kubelet.nodestatus import enforce, machine, node
from kubelet.nodestatus.lease import Heartbeat
from kubelet.nodestatus.speaker import Speaker
from kubelet.nodestatus.witness import Witness
from kubelet.observe.checkpoint import Checkpoint
from kubelet.observe.manifests import FILE, HTTP, Fetched, Manifests, Reader
from kubelet.observe.mirror import Mirrors
from kubelet.observe.objects import Objects
from kubelet.observe.pods import PodSource
from kubelet.observe.view import RuntimeView
from kubelet.observe.wanted import PODS_WHOLE
from kubelet.probing.prober import Prober
from kubelet.probing.probes import Probes, Target
from kubelet.publish import Publisher
from kubelet.resources import GUARANTEED, Policy, tier
from kubelet.runtime import EVERYTHING, Hint, Runtime
from kubelet.tokens import Tokens
from kubelet.upkeep import Upkeep, images_of
from kubelet.workers import Facts, Workers
from linux.cgroup import tree

log = logging.getLogger(__name__)

RELIST, RELIST_HINTED = 1.0, 10.0
API_PATIENCE = 2.0  # seconds at the start after which what was kept of pods stands in for the API
LEFTOVERS = 60.0
LINGER = 1.0  # seconds; a pod's start is not to wait for what is told of it


def clock() -> datetime:
    return datetime.now(UTC)


def node_name(config: Config) -> str:
    return (config.hostname_override.strip() or socket.gethostname()).lower()


def place_of(config: Config, ips: tuple[str, ...], facts: machine.Machine) -> Place:
    return Place(
        root=config.root_dir,
        logs=config.pod_logs_dir,
        cgroup_root=config.cgroup_root,
        cluster_dns=config.cluster_dns,
        cluster_domain=config.cluster_domain,
        resolv_conf=config.resolv_conf,
        host_ips=ips,
        memory=facts.memory,
        allocatable=node.allocatable(config, facts),
        policy=Policy(
            quota=config.cpu_cfs_quota,
            period=round(config.cpu_cfs_quota_period * 1_000_000),
            pids=max(0, config.pod_pids_limit),
            seccomp=config.seccomp_default,
            profiles=f"{config.root_dir}/seccomp",
        ),
    )


def _words(error: Exception) -> Iterator[str]:
    """What happened, without the groups that tasks put around it."""
    if isinstance(error, ExceptionGroup):
        for one in error.exceptions:
            yield from _words(one)
    else:
        yield f"{type(error).__name__}: {error}"


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
        ips = config.node_ips or machine.addresses_towards(client.server)
        try:
            os.makedirs(os.path.join(config.root_dir, "pods"), mode=0o750, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--root-dir: cannot make {error.filename}: {error.strerror}") from error
        self.config, self.name, self.ips = config, name, ips
        self._client, self.runtime, self.metrics = client, runtime, metrics
        self._seen_at: dict[str, float] = {}  # pods nobody has begun to work on
        self.keys: Keys[str] = Keys()
        self.view = RuntimeView(runtime, self._news)
        self.recorder = Recorder(
            client, "kubelet", name, qps=config.event_record_qps, burst=config.event_burst, linger=LINGER
        )
        self.told = Told(self.recorder)
        self.facts = machine.machine(config.root_dir)
        enforce.check(config, self.facts)
        self.pods: Informer[Pod] = Informer(client, PODS_WHOLE, field_selector=f"spec.nodeName={name}")
        self.services = Informer(client, SERVICES)
        self.classes = Informer(client, RUNTIMECLASSES)
        local = [kind for kind, where in ((FILE, config.static_pod_path), (HTTP, config.static_pod_url)) if where]
        self.source = PodSource(self.pods, self._pod_changed, local)
        self.checkpoint = Checkpoint(config.root_dir, name, self.pods, self.services, self.classes)
        self.about = Reference("v1", "Node", "", name, name)
        self.upkeep = Upkeep(
            config, runtime, lambda: self.view.records, self.source.pods, self._node_warning, metrics, clock
        )
        self.objects = Objects(client, self._objects_changed, self.pods.synced.is_set)
        self.probes = Probes(
            Prober(runtime).attempt,
            changed=self._news,
            tell=self._probe_told,
            broken=metrics.unexpected.labels("probe").inc,
        )
        self.publisher = Publisher(client, self.source.in_api, self._gone)
        self.nodes = Informer(client, NODES, field_selector=f"metadata.name={name}")
        place = place_of(config, self.ips, self.facts)
        means = Means(
            place=place,
            runtime=runtime,
            objects=self.objects,
            services=self.services,
            classes=self.classes,
            tokens=Tokens(client, clock),
            told=self.told,
            images=images_of(config, runtime, metrics, clock),
            metrics=metrics,
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
            self._gate(place),
            started=metrics.pod_start.observe,
            left=self._pod_left,
        )
        self.probed = CollectorRegistry()
        self.probed.register(self.probes.tallies)
        metrics.registry.register(Running(self.view))
        metrics.registry.register(Wanted(self.source.pods, self.workers.pods))
        metrics.registry.register(Mounted(self.source.pods, means.volumes))
        self.heartbeat = Heartbeat(connection, name, config.node_lease_duration_seconds)
        self.node_wake, self.relist_wake = Wake(), Wake()
        self.witness = Witness(config, name, ips, self.facts, runtime)
        self.speaker = self._speaker(client)
        group = tier(config.cgroup_root, GUARANTEED)
        self.enforcer = enforce.Enforcer(trees, group, enforce.limits(config, self.facts), self._tell_of_node)
        self.mirrors = Mirrors(client, self.source, name, self.speaker.registered.wait, self.workers.lives)
        self._failing = False
        self._leftovers_at = 0.0
        self.relisted_at = time.monotonic()

    def _gate(self, place: Place) -> Gate:
        own = Ground(
            name=self.name,
            labels=node.node_labels(self.name, self.facts, self.config.node_labels),
            allocatable=place.allocatable,
            sysctls=Allowlist.of(self.config.allowed_unsafe_sysctls),
            apparmor=has_apparmor(),
        )
        return Gate(own, self.nodes, lambda: self.speaker.felt)

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
        try:
            async with asyncio.timeout(API_PATIENCE):
                await self.source.answered()
        except TimeoutError:
            self.source.give_up()
            await self.source.answered()
            self.workers.answered()
        for pod in self.source.pods():
            self._pod_changed(pod.metadata.uid)
        await self.nodes.synced.wait()  # pods may be waiting at the door for it
        for pod in self.source.pods():
            self._pod_changed(pod.metadata.uid)

    def _tell_of_node(self, kind: str, reason: str, message: str) -> None:
        self.recorder.event(self.about, "Warning" if kind == "Warning" else "Normal", reason, message)

    def _node_warning(self, reason: str, message: str) -> None:
        self.recorder.event(self.about, "Warning", reason, message)

    def _bad_manifest(self, words: str) -> None:
        log.error("%s", words)
        self.recorder.event(self.about, "Warning", "FailedValidation", words)

    def _speaker(self, client: Client) -> Speaker:
        return Speaker(
            client=client,
            recorder=self.recorder,
            portrait=self.witness.portrait,
            runtime_status=self.runtime.status,
            images=self.witness.images,
            pressure=self.witness.pressure,
            problems=self._problems,
            clock=clock,
            name=self.name,
            config=self.config,
        )

    def _problems(self) -> Sequence[str]:
        """Upstream's check of the same name: the loop has looked at the runtime lately."""
        age = time.monotonic() - self.relisted_at
        return (
            (f"PLEG is not healthy: pleg was last seen active {age:.0f}s ago; threshold is 3m0s",) if age > 180 else ()
        )

    async def _beat(self) -> None:
        await self.speaker.registered.wait()
        await self.heartbeat.keep()

    def _pod_changed(self, uid: str) -> None:
        if self.source.get(uid) is not None and not self.workers.knows(uid):
            self._seen_at.setdefault(uid, time.monotonic())
        self.workers.wake(uid)

    def _news(self, uid: str) -> None:
        self.workers.news(uid)

    def _pod_left(self, uid: str) -> None:
        self.mirrors.left(uid)

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
        before, self.relisted_at = self.relisted_at, time.monotonic()
        self.metrics.relisted(self.relisted_at - begun, self.relisted_at - before)
        if self._failing:
            self._failing = False
            self.witness.version = None  # it may be another one that has come back
            self.node_wake.set()
            self.workers.wake_all()
        self.workers.orphans()
        if time.monotonic() >= self._leftovers_at and self.source.synced:
            self._leftovers_at = time.monotonic() + LEFTOVERS
            self.workers.leftovers()
            frugal.give_back()
        return RELIST_HINTED if self.runtime.hinting() and self.source.synced else RELIST

    async def _pass(self, uid: str) -> float | None:
        """One pass over a pod, and the one door at which what nobody foresaw stops (as upstream recovers there): what one
        pod's author wrote, or its runtime answered, must not take the node down, again at each start. It is logged with its
        traceback, told to the pod and counted, and the pod is tried again. Outside of a pod's pass a bug ends the daemon."""
        begun = time.monotonic()
        if (seen_at := self._seen_at.pop(uid, None)) is not None:
            self.metrics.pod_worker_start.observe(begun - seen_at)
        try:
            return await self.workers.sync(uid)
        except Exception as error:
            if foreseen(error):
                raise
            raise self._unforeseen(uid, error) from error
        finally:
            self.metrics.pod_worker.labels("sync").observe(time.monotonic() - begun)
            self.upkeep.changed()

    def _unforeseen(self, uid: str, error: Exception) -> Retry:
        pod = next((pod for pod in self.workers.pods() if pod.metadata.uid == uid), None)
        words = "; ".join(_words(error))
        log.error("pod %s: a bug: %s", pod.metadata.key if pod else uid, words, exc_info=error)
        self.metrics.unexpected.labels("pod").inc()
        if pod is not None:
            self.told.pod(pod, "Warning", "FailedSync", f"Error syncing pod, skipping: {words}")
        return Retry(words)

    async def review(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the API server who somebody is, or what they may do."""
        return await self._client.object("POST", path, body=body)

    def syncloop(self) -> str | None:
        """Upstream's healthz check of the same name: has the loop looked at the runtime lately, or tried to?"""
        age = time.monotonic() - self.relisted_at
        return f"no look at the runtime for {age:.0f} s" if age > 180 and not self._failing else None

    def switch(self, connection: Connection) -> None:
        """Another certificate: from the next request on."""
        self._client.switch(connection)
        self.heartbeat.switch(connection)

    async def run(self, *more: Coroutine[Any, Any, object]) -> None:
        self.recorder.event(self.about, "Normal", "Starting", "Starting kubelet.")
        self.checkpoint.recall()
        try:
            async with asyncio.TaskGroup() as group:
                for work in (
                    *more,
                    *(place.run() for place in self._manifests()),
                    self.mirrors.run(),
                    self.checkpoint.run(),
                    self._answered(),
                    self.pods.run(),
                    self.services.run(),
                    self.nodes.run(),
                    self.classes.run(),
                    self.recorder.run(),
                    self.objects.run(),
                    self.probes.run(),
                    self.publisher.run(),
                    *self.upkeep.works(),
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
                        workers=2 * self.config.max_pods,  # those on their way out have theirs too
                        backoff=Backoff(first=0.5, most=10.0),
                        name="pod",
                    ),
                    forever(self.enforcer.sync, Wake(), resync=enforce.PERIOD, name="node allocatable"),
                    forever(
                        self.speaker.sync,
                        self.node_wake,
                        resync=self.config.node_status_update_frequency,
                        min_interval=0.2,
                        backoff=Backoff(first=0.1, most=7.0),
                        name="node status",
                    ),
                ):
                    group.create_task(work)
        finally:
            self.deeds.close()
