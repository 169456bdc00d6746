"""The kubelet as a process: what must be so before it starts, its doors, and the wiring behind them."""

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from kube.client import Client, Connection
from kube.errors import UsageError
from kubelet import frugal, runtimes
from kubelet.certificate.fixed import Fixed
from kubelet.config import Config
from kubelet.metrics import Metrics
from kubelet.nodestatus import host, machine
from kubelet.server import front
from kubelet.wiring import Wiring, clock, node_name
from linux.cgroup import tree

if TYPE_CHECKING:
    from kubelet.certificate.certificates import Certificate
    from kubelet.certificate.identity import Identity

log = logging.getLogger(__name__)

ADDRESS_PAUSE = 1.0
LAST_WORDS = 2.0  # seconds


def _identity(config: Config, name: str) -> tuple[Connection, "Identity | None"]:
    """The way to the API; and what is renewed, for which `cryptography` is read only where there is something to renew."""
    if not (config.bootstrap_kubeconfig or config.rotate_certificates or config.server_tls_bootstrap):
        return Connection.from_kubeconfig(config.kubeconfig), None
    from kubelet.certificate.identity import identity

    found = identity(config, name, clock())
    return found.connection, found


def _given(config: Config, connection: Connection, renewed: Collection[str]) -> dict[str, bytes]:
    """The certificates that are used as they are, by side."""
    found: dict[str, bytes] = {}
    if connection.certificate and "kubelet-client" not in renewed:
        found["client"] = connection.certificate
    if config.tls_cert_file and "kubelet-server" not in renewed:
        found["server"] = Path(config.tls_cert_file).read_bytes()
    return found


async def _found_address(config: Config, connection: Connection) -> None:
    """Until this machine has an address: one that has just booted may not have."""
    while not config.node_ips and not await asyncio.to_thread(machine.addresses_towards, connection.server):
        log.warning("this machine has no address yet (--node-ip names one); looking again in %g s", ADDRESS_PAUSE)
        await asyncio.sleep(ADDRESS_PAUSE)


async def run(config: Config, ready: Callable[[], None]) -> None:
    """The kubelet, until cancelled. Pods stay as they are."""
    if os.geteuid() != 0:
        raise UsageError("the kubelet mounts volumes and writes cgroups: run it as root")
    frugal.begin()
    host.check(config)
    name = node_name(config)
    connection, found = _identity(config, name)
    host.settle(config)
    await _found_address(config, connection)
    metrics = Metrics(name)
    runtime = runtimes.runtime_of(config, name, metrics.operation)
    runtimes.reach(config)
    tls = front.tls_of(config, name)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(connection, user_agent="wherry-kubelet", observe=metrics.asked))
        stack.push_async_callback(runtime.close)
        wiring = Wiring(config, client, connection, runtime, metrics, tree.hierarchies())
        checks = {"ping": lambda: None, "log": front.log_goes_out, "syncloop": wiring.syncloop}
        shown = front.pages(
            stack, config, name, runtime, metrics, lambda: wiring.view.records, wiring.workers, checks, wiring.probed
        )
        await front.open_ports(
            stack,
            config,
            name,
            tls,
            shown,
            source=wiring.workers,
            runtime=runtime,
            review=wiring.review,
            own_uid=wiring.source.own_uid,
            metrics=metrics,
        )
        renewed: list[Certificate] = []
        if found is not None:
            from kubelet.certificate import identity

            renewed = await stack.enter_async_context(
                identity.renewals(config, name, wiring.ips, found, client, tls, wiring.switch)
            )
            metrics.registry.register(identity.Lifetimes(renewed, clock))
        metrics.registry.register(Fixed(_given(config, connection, {each.wish.name for each in renewed}), clock))
        frugal.settled()
        ready()
        try:
            await wiring.run(*(each.run() for each in renewed))
        except asyncio.CancelledError:  # to be stopped: what was seen is said, and everything is left running
            await wiring.publisher.flush(LAST_WORDS)
            raise
