"""Wiring: the store's process, the cache that follows it, the writer, and the sockets.

Order of a start: open the store, load the cache, create what every cluster has, listen, ready. Order of an end: not ready,
watches end with a clean last chunk, running requests finish, the store commits what it has and closes.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from apiserver import access, allocations, bootstrap, flow, health, memory, presence, schema, usage
from apiserver.access_figures import AccessFigures
from apiserver.admission import DEFAULT, PLUGINS, Admission, Settings, Sight
from apiserver.allocators import Allocators
from apiserver.audit import configured as auditing
from apiserver.audit.events import Audit
from apiserver.cache import Cache
from apiserver.config import Config
from apiserver.http import subresources
from apiserver.http.api import Api
from apiserver.http.components import COMPONENTS, Components, usual
from apiserver.http.documents import Documents
from apiserver.http.reviews import Reviews
from apiserver.http.server import Server, listening, tls_context
from apiserver.http.verbs import Verbs
from apiserver.metrics import CacheFigures, Metrics
from apiserver.outward import Outward
from apiserver.pipeline import Writer
from apiserver.proxying import Proxying, slices_of
from apiserver.ranges import Ranges
from apiserver.registry import Registry
from apiserver.relay import Relay, Trust
from apiserver.schema.beside import METRICS
from apiserver.store import Store, StoreFailed, StoreLost, opening
from apiserver.watch import Watches
from kube.errors import Retry, UsageError

# Requests leave few cycles behind and the cache is large and long-lived: CPython's default looks for cycles after every
# 700 objects, which took a twentieth of the time of a write.
GC_THRESHOLD: Final = (20_000, 50, 50)

log = logging.getLogger(__name__)


async def run(config: Config, ready: Callable[[], None]) -> None:
    """Serves until cancelled. Raises UsageError for what the configuration gets wrong."""
    ranges = service_ranges(config)
    plugins = admission_plugins(config)
    address = advertised(config)
    gc.set_threshold(*GC_THRESHOLD)
    tls = tls_context(config.tls_cert_file, config.tls_private_key_file, config.client_ca_file)
    kubelet_tls = Trust(kubelet_context(config), kubelet_context(config, verify=False))
    keys = access.configured_keys(config)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opening.configured(config))
        session = await stack.enter_async_context(Outward())
        audit = stack.enter_context(auditing.opening(config))
        await _serve(config, ranges, plugins, address, tls, store, kubelet_tls, session, keys, audit, ready)


async def _serve(
    config: Config,
    ranges: Ranges,
    plugins: frozenset[str],
    address: str,
    tls: ssl.SSLContext,
    store: Store,
    kubelet_tls: Trust,
    session: Outward,
    keys: access.Keys,
    audit: Audit | None,
    ready: Callable[[], None],
) -> None:
    registry = Registry()
    cache = Cache(
        registry.describers() | allocations.DESCRIBERS | presence.DESCRIBERS, ring=config.default_watch_cache_size
    )
    watches = Watches(cache)
    allocators = Allocators(ranges, allocations.Books(cache, registry, ranges))
    settings = Settings(
        config.default_not_ready_toleration_seconds,
        config.default_unreachable_toleration_seconds,
        authorizer=access.EVERYBODY,
    )
    admission = Admission(Sight(cache, registry, store.current), plugins, settings)
    writer = Writer(store, cache, admission, allocators, event_ttl=config.event_ttl)
    metrics = Metrics()
    metrics.registry.register(CacheFigures(cache, watches))
    writer.timed = metrics.stored
    furnished, ending = asyncio.Event(), asyncio.Event()
    relay = Relay(_node(cache, registry), kubelet_tls, session)
    proxying = Proxying(writer, kubelet_tls, session, slices_of(cache, registry))
    usages = usage.UsageApi(cache, registry, usage.Samples(usage.fetching(session, kubelet_tls)))
    extensions = {METRICS: usages.handle} if config.enable_metrics_api else {}
    reviews = Reviews(access.build(config, keys, cache, registry, store))
    verbs = Verbs(
        registry,
        writer,
        watches,
        subresources.handlers(writer, relay, proxying, reviews),
        {
            **subresources.creations(registry, writer, reviews),
            COMPONENTS: Components(usual(session, health.plain(store.trouble))).handle,
        },
    )
    documents = Documents(
        tuple(schema.offered(schema.served(), verbs.subresources, verbs.creations, extensions)),
        metrics.registry,
        live={"ping": health.plain(lambda: None), "etcd": health.plain(store.trouble)},
        ready={
            "informer-sync": health.plain(lambda: None if cache.loaded.is_set() else "the cache is still loading"),
            "poststarthook/bootstrap-controller": health.plain(
                lambda: None if furnished.is_set() else "namespaces and Service kubernetes are being made"
            ),
            "shutdown": health.plain(lambda: "the server is ending" if ending.is_set() else None),
        },
        more=reviews.document,
    )
    turns = flow.flow(config.max_requests_inflight, config.max_mutating_requests_inflight, flow.sizing(cache, registry))
    metrics.registry.register(AccessFigures(turns, reviews.access.authenticator.tokens, audit))
    api = Api(reviews.access, verbs, documents, turns, audit, extensions)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(store.run(), name="store")
            group.create_task(cache.run(store), name="cache")
            await cache.loaded.wait()
            memory.settle()
            server = Server(api.dispatch, metrics.observe, metrics.lasting)
            async with AsyncExitStack() as stack:
                stack.enter_context(allocators.following(cache.shelf(registry.core("services").prefix)))
                group.create_task(allocations.repairing(store, allocators.books), name="allocations")
                delay = config.shutdown_delay_duration
                listener = listening(
                    server,
                    config.bind_address,
                    config.secure_port,
                    tls,
                    closing=watches.close,
                    ending=ending.set,
                    delay=delay,
                )
                port = await stack.enter_async_context(listener)
                client_ca = Path(config.client_ca_file).read_text()
                cluster = bootstrap.Cluster(ranges.addresses, address, port, client_ca)
                await bootstrap.ensure(registry, writer, cluster, presence.addresses(cache, cluster))
                group.create_task(presence.keeping(store, registry, writer, cluster, bool(config.etcd_servers)))
                furnished.set()
                log.info("serving on %s:%d, store %s", config.bind_address, port, opening.described(config))
                ready()
                await asyncio.get_running_loop().create_future()
    except* (StoreLost, StoreFailed) as lost:
        why = f"the store was lost ({lost.exceptions[0]}); starting again loads what it has"
        raise Retry(why) from lost


def _node(cache: Cache, registry: Registry) -> Callable[[str], dict[str, Any] | None]:
    shelf = cache.shelf(registry.core("nodes").prefix)

    def node(name: str) -> dict[str, Any] | None:
        entry = shelf.get("", name)
        return entry.parse() if entry else None

    return node


def service_ranges(config: Config) -> Ranges:
    """Raises UsageError."""
    flag, text = "--service-cluster-ip-range", config.service_cluster_ip_range
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}; write it like 10.96.0.0/16") from error
    if network.num_addresses < 8:
        raise UsageError(f"{flag}: {text} holds too few addresses; give at least a /29")
    first, dash, last = config.service_node_port_range.partition("-")
    if not (dash and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        text = config.service_node_port_range
        raise UsageError(f"--service-node-port-range: {text!r} is not first-last; write it like 30000-32767")
    return Ranges(network, int(first), int(last))


def advertised(config: Config) -> str:
    """The address that pods reach the server at: as told, as bound, or the one that a default route would use. Empty
    for a server on loopback, which no pod reaches."""
    if config.advertise_address:
        told = _ip("--advertise-address", config.advertise_address)
        if ipaddress.ip_address(told).is_loopback:
            raise UsageError(f"--advertise-address: {told} is a loopback address; give one that pods can reach")
        return told
    bound = _ip("--bind-address", config.bind_address or "0.0.0.0")
    if ipaddress.ip_address(bound).is_loopback:
        return ""
    if not ipaddress.ip_address(bound).is_unspecified:
        return bound
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # connecting a datagram socket sends nothing
        except OSError as error:
            raise UsageError(
                "--advertise-address is required: this host has no route to choose an address by"
            ) from error
        return str(probe.getsockname()[0])


def admission_plugins(config: Config) -> frozenset[str]:
    """Raises UsageError."""
    without = _plugins("--disable-admission-plugins", config.disable_admission_plugins)
    with_ = _plugins("--enable-admission-plugins", config.enable_admission_plugins)
    if both := with_ & without:
        raise UsageError(
            f"--enable-admission-plugins: {', '.join(sorted(both))} is also in --disable-admission-plugins"
        )
    return (DEFAULT | with_) - without


def _plugins(flag: str, text: str) -> frozenset[str]:
    named = frozenset(one.strip() for one in text.split(",") if one.strip())
    if unknown := named - PLUGINS:
        raise UsageError(f"{flag}: {', '.join(sorted(unknown))} is none of {', '.join(sorted(PLUGINS))}")
    return named


def _ip(flag: str, text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise UsageError(f"{flag}: {error}; give an IP address") from error


def kubelet_context(config: Config, *, verify: bool = True) -> ssl.SSLContext:
    """Our side of TLS to kubelets; without a CA their certificates are not verified, as upstream."""
    authority = config.kubelet_certificate_authority if verify else ""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if authority:
            context.load_verify_locations(authority)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if config.kubelet_client_certificate:
            context.load_cert_chain(config.kubelet_client_certificate, config.kubelet_client_key or None)
    except OSError as error:
        raise UsageError(
            "--kubelet-client-certificate, --kubelet-client-key, --kubelet-certificate-authority:"
            f" {error}; name readable PEM files"
        ) from error
    return context
