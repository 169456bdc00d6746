"""The server as a configuration wants it: who may, which pages, which ports."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from kube import serving, slis
from kube.errors import UsageError
from kubelet.config import Config, shown
from kubelet.metrics import Metrics
from kubelet.runtime import PodRecord, Runtime
from kubelet.server.access import Access, Policy, Review
from kubelet.server.api import Pages, PodSource, Server, serve
from kubelet.server.containers import container_pages
from kubelet.server.summary import Site
from kubelet.server.tls import tls_context


def policy(config: Config) -> Policy:
    """Who may use the API. Raises UsageError where nobody could."""
    ca = config.authentication.x509.client_ca_file
    if not (ca or config.authentication.webhook.enabled or config.authentication.anonymous.enabled):
        raise UsageError(
            "authentication: nobody could use the kubelet's API: name the cluster's CA file (x509.clientCAFile, flag "
            "--client-ca-file) or turn webhook.enabled on"
        )
    return Policy(
        anonymous=config.authentication.anonymous.enabled,
        tokens=config.authentication.webhook.enabled,
        token_ttl=config.authentication.webhook.cache_ttl,
        mode=config.authorization.mode,
        allowed_ttl=config.authorization.webhook.cache_authorized_ttl,
        denied_ttl=config.authorization.webhook.cache_unauthorized_ttl,
    )


def tls_of(config: Config, node: str) -> ssl.SSLContext:
    return tls_context(
        node,
        config.tls_cert_file,
        config.tls_private_key_file,
        config.authentication.x509.client_ca_file,
        ciphers=config.tls_cipher_suites,
        least=config.tls_min_version,
    )


def log_goes_out() -> str | None:
    """Upstream's healthz check `log`."""
    try:
        os.fstat(2)
    except OSError as error:
        return f"standard error, where the log goes: {error.strerror}"
    return None


def pages(
    stack: AsyncExitStack,
    config: Config,
    node: str,
    runtime: Runtime,
    metrics: Metrics,
    records: Callable[[], Iterable[PodRecord]],
    source: PodSource,
    checks: Mapping[str, serving.Check],
    probes: CollectorRegistry,
) -> Pages:
    """`probes` is the registry behind /metrics/probes."""
    site = Site(
        node=node,
        cgroup_root=config.cgroup_root,
        root_dir=config.root_dir,
        pod_logs_dir=config.pod_logs_dir,
        volume_period=config.volume_stats_agg_period,
    )
    return Pages(
        checks=checks,
        routes={
            "/metrics": serving.metrics(metrics.registry),
            "/metrics/probes": serving.metrics(probes),
            "/metrics/slis": serving.metrics(slis.registry(checks)),
            **container_pages(stack, records, source.pods, runtime, site, config.pod_infra_container_image),
            "/configz": serving.json(lambda: {"kubeletconfig": shown(config)}),
        },
        log_directory=os.path.dirname(config.pod_logs_dir.rstrip("/")) if config.enable_system_log_handler else "",
        log_query=config.enable_system_log_query,
        commands=config.enable_debugging_handlers,
        stream_patience=config.streaming_connection_idle_timeout,
    )


async def open_ports(
    stack: AsyncExitStack,
    config: Config,
    node: str,
    tls: ssl.SSLContext,
    shown: Pages,
    *,
    source: PodSource,
    runtime: Runtime,
    review: Review,
    own_uid: Callable[[str], str],
    metrics: Metrics,
) -> None:
    """10250, and where they are asked for the read-only port and the one for health. Raises UsageError."""
    access = Access(node, policy(config), review)
    api = Server(source, runtime, access, shown, own_uid=own_uid, measure=metrics.request)
    await stack.enter_async_context(serve(api.application(), config.address, config.port, tls))
    if config.read_only_port:
        public = api.application(read_only=True)
        await stack.enter_async_context(
            serve(public, config.address, config.read_only_port, None, flag="--read-only-port")
        )
    if config.healthz_port:
        health = serving.health(shown.checks)
        routes = {"/healthz": health, "/livez": health}
        await stack.enter_async_context(
            serving.serve(config.healthz_bind_address, config.healthz_port, routes, flag="--healthz-port")
        )
