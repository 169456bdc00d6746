"""Wiring: informers wake the loop, the loop plans and applies, a small HTTPS server tells how it goes."""

import asyncio
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kube import reconcile, selfsigned, serving
from kube.client import Client, Connection
from kube.election import Election, Terms
from kube.errors import UsageError
from kube.events import Recorder
from kube.reconcile import Wake
from kube.settings import render
from scheduler import apply, plan
from scheduler.config import Config
from scheduler.model import Bind
from scheduler.observe import SCHEDULER_NAME, Observed

RESYNC = 60.0
"""Seconds between two passes without any event; nothing depends on it."""


class Metrics:
    """kube-scheduler's names, as far as they have a meaning here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("result", "profile")
        buckets = [0.001 * 2**n for n in range(15)]
        self.attempts = Counter(
            "scheduler_schedule_attempts", "Attempts to schedule pods, by result.", labels, registry=registry
        )
        self.latency = Histogram(
            "scheduler_scheduling_attempt_duration_seconds",
            "Scheduling attempt latency (algorithm and binding).",
            labels,
            buckets=buckets,
            registry=registry,
        )
        self.algorithm = Histogram(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency of one pass.",
            buckets=buckets,
            registry=registry,
        )
        self.pending = Gauge("scheduler_pending_pods", "Pending pods, by queue.", ("queue",), registry=registry)
        for queue in ("active", "unschedulable"):
            self.pending.labels(queue).set(0)

    def attempted(self, result: str, count: int, seconds: float) -> None:
        if not count:
            return
        self.attempts.labels(result, SCHEDULER_NAME).inc(count)
        observation = self.latency.labels(result, SCHEDULER_NAME)
        for _ in range(count):
            observation.observe(seconds / count)


class Scheduler:
    """One pass rereads what is pending, plans it all and carries it out."""

    def __init__(self, client: Client, metrics: Metrics) -> None:
        self.wake = Wake()
        self.observed = Observed(client, self.wake)
        self._client = client
        self._metrics = metrics
        self._recorder = Recorder(client, SCHEDULER_NAME)

    async def sync(self) -> None:
        started = time.perf_counter()
        pending, views, nodes = self.observed.read()
        metrics = self._metrics
        metrics.pending.labels("active").set(len(pending))
        if not pending:
            metrics.pending.labels("unschedulable").set(0)
            return
        decisions = plan.schedule(views, nodes)
        metrics.algorithm.observe(time.perf_counter() - started)
        pods = {pod.metadata.uid: pod for pod in pending}
        bound = await apply.carry_out(decisions, pods, self._client, self.observed, self._recorder)
        wanted = sum(isinstance(d, Bind) for d in decisions)
        took = time.perf_counter() - started
        metrics.attempted("scheduled", bound, took)
        metrics.attempted("error", wanted - bound, took)
        metrics.attempted("unschedulable", len(decisions) - wanted, took)
        metrics.pending.labels("active").set(wanted - bound)
        metrics.pending.labels("unschedulable").set(len(decisions) - wanted)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recorder.run())
            for informer in self.observed.informers:
                group.create_task(informer.run())
            for informer in self.observed.informers:
                await informer.synced.wait()
            await reconcile.forever(self.sync, self.wake, resync=RESYNC, name="scheduler")


async def run(config: Config, ready: Callable[[], None]) -> None:
    """Schedule until cancelled."""
    if not config.client_connection.kubeconfig:
        raise UsageError("--kubeconfig is required (or clientConnection.kubeconfig in the --config file)")
    connection = Connection.from_kubeconfig(config.client_connection.kubeconfig)
    tls = selfsigned.given_or_made(config.tls_cert_file, config.tls_private_key_file, "wherry-scheduler")
    registry = CollectorRegistry()
    async with Client(connection, user_agent="wherry-scheduler") as client:
        metrics = Metrics(registry)
        scheduler: Scheduler | None = None
        elect = config.leader_election
        terms = Terms(elect.lease_duration, elect.renew_deadline, elect.retry_period)
        election = Election(client, elect.resource_name, elect.resource_namespace, terms)

        def informed() -> str | None:
            idle = elect.leader_elect and not election.leading
            return None if idle or (scheduler and scheduler.observed.synced) else "informers have not synced"

        async def work() -> None:
            """One term: what was seen in an earlier one may be out of date."""
            nonlocal scheduler
            scheduler = Scheduler(client, metrics)
            await scheduler.run()

        routes = {
            "/healthz": serving.health({"ping": lambda: None}),
            "/livez": serving.health({"ping": lambda: None}),
            "/readyz": serving.health({"ping": lambda: None, "informer-sync": informed}),
            "/metrics": serving.metrics(registry),
            "/configz": serving.json(lambda: {"kubescheduler.config.k8s.io": render(config)}),
        }
        async with serving.serve(
            config.bind_address, config.secure_port, routes, tls=tls, flag="--bind-address or --secure-port"
        ):
            ready()
            await (election.lead(work) if elect.leader_elect else work())
