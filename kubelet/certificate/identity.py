"""Who the kubelet is to the API, and to those who call it: from files at the start, by `certificates` from then on.

--kubeconfig names a certificate in force          it is used; renewed where rotateCertificates says so
it does not, and there is --bootstrap-kubeconfig   the certificate that is kept in --cert-dir, or else a new one, asked
                                                   for as the bootstrap user; --kubeconfig is written then
neither                                            an error in words
"""

import logging
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from kube import certificates, kubeconfig, trust
from kube.certificates import KeyPair
from kube.client import Client, Connection
from kube.errors import UsageError
from kubelet.certificate.certificates import Certificate, Store, client_wish, serving_wish, usable
from kubelet.config import Config

log = logging.getLogger(__name__)

WAITING = "there is no client certificate yet: the kubelet's CertificateSigningRequest waits for approval"


@dataclass(frozen=True, slots=True)
class Identity:
    """`connection` may be pending; then `bootstrap` is who asks for its certificate."""

    connection: Connection
    bootstrap: Connection | None = None

    def with_pair(self, pair: KeyPair) -> Connection:
        return replace(self.connection, certificate=pair.certificate, key=pair.key, token=None, pending="")


def folder_of(config: Config) -> Path:
    return Path(config.cert_dir or os.path.join(config.root_dir, "pki"))


def identity(config: Config, node: str, now: datetime) -> Identity:
    """Raises UsageError."""
    kept = Store(folder_of(config), "kubelet-client").current()
    name = trust.kubelet(node).user
    if not usable(kept, name, now):
        kept = None
    if not config.bootstrap_kubeconfig or os.path.exists(config.kubeconfig):
        try:
            connection = Connection.from_kubeconfig(config.kubeconfig)
        except UsageError as error:
            if not config.bootstrap_kubeconfig:
                raise
            log.warning("%s; it is written anew", error)
        else:
            chosen = _later(connection, kept) if config.rotate_certificates else connection
            if not config.bootstrap_kubeconfig or not _ended(chosen, now):
                return Identity(chosen)
            log.warning("--kubeconfig %s: its certificate has ended", config.kubeconfig)
    source = _bootstrap(config)
    if kept is not None:
        found = Identity(replace(source, certificate=kept.certificate, key=kept.key, token=None))
        write(config, found.connection, node)
        return found
    return Identity(replace(source, certificate=None, key=None, token=None, pending=WAITING), source)


def _bootstrap(config: Config) -> Connection:
    try:
        return Connection.from_kubeconfig(config.bootstrap_kubeconfig)
    except UsageError as error:
        raise UsageError(str(error).replace("--kubeconfig", "--bootstrap-kubeconfig", 1)) from error


def _pair(connection: Connection) -> KeyPair | None:
    both = connection.certificate and connection.key
    return KeyPair(connection.certificate or b"", connection.key or b"") if both else None


def _later(connection: Connection, kept: KeyPair | None) -> Connection:
    """The kubeconfig's own certificate, or the one that was renewed since."""
    mine = _pair(connection)
    if (
        kept is None
        or mine is None
        or certificates.leaf(kept.certificate).ends <= certificates.leaf(mine.certificate).ends
    ):
        return connection
    return replace(connection, certificate=kept.certificate, key=kept.key)


def _ended(connection: Connection, now: datetime) -> bool:
    mine = _pair(connection)
    return mine is not None and now >= certificates.leaf(mine.certificate).ends


def write(config: Config, connection: Connection, node: str) -> None:
    """--kubeconfig, pointing at the certificate that is kept."""
    path = str(Store(folder_of(config), "kubelet-client").path)
    trust.write(Path(config.kubeconfig), kubeconfig.pointing(connection, path, trust.kubelet(node).user).encode())


@asynccontextmanager
async def renewals(
    config: Config,
    node: str,
    ips: tuple[str, ...],
    found: Identity,
    client: Client,
    tls: ssl.SSLContext,
    switched: Callable[[Connection], None],
) -> AsyncIterator[list[Certificate]]:
    """The certificates to keep renewed while the context is open. `switched` is told of each new connection, `tls` given
    each new serving certificate."""
    wanted: list[Certificate] = []
    asking = client
    if found.bootstrap is not None:
        asking = await Client(found.bootstrap, user_agent="wherry-kubelet-bootstrap").__aenter__()

    def taken(pair: KeyPair) -> None:
        connection = found.with_pair(pair)
        if not os.path.exists(config.kubeconfig) or found.bootstrap is not None:
            write(config, connection, node)
        switched(connection)

    try:
        mine = _pair(found.connection)
        if found.bootstrap is not None or (config.rotate_certificates and mine is not None):
            store = Store(folder_of(config), "kubelet-client")

            def who() -> Client:
                return asking if own.pair is None else client

            own = Certificate(client_wish(node), store, who, taken, pair=mine, renew=config.rotate_certificates)
            wanted.append(own)
        if config.server_tls_bootstrap:
            wanted.append(_serving(config, node, ips, client, tls))
        yield wanted
    finally:
        if asking is not client:
            await asking.__aexit__(None, None, None)


def _serving(config: Config, node: str, ips: tuple[str, ...], client: Client, tls: ssl.SSLContext) -> Certificate:
    store, wish = Store(folder_of(config), "kubelet-server"), serving_wish(node, ips)

    def taken(_pair: KeyPair) -> None:
        tls.load_cert_chain(str(store.path))

    kept = store.current()
    if not usable(kept, wish.common_name, datetime.now().astimezone()):
        kept = None
    if kept is not None:
        taken(kept)
    return Certificate(wish, store, lambda: client, taken, pair=kept)


class Lifetimes(Collector):
    """Upstream's series about them."""

    def __init__(self, wanted: Iterable[Certificate], clock: Callable[[], datetime]) -> None:
        self._wanted = list(wanted)
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        for each in self._wanted:
            side = "client" if each.wish.name == "kubelet-client" else "server"
            ends = each.expires
            left = (ends - self._clock()).total_seconds() if ends else float("inf")
            name = f"kubelet_certificate_manager_{side}_ttl_seconds"
            yield GaugeMetricFamily(name, f"Seconds until the {side} certificate ends", value=left)
            name = {
                "client": "kubelet_certificate_manager_client_expiration_renew_errors",
                "server": "kubelet_server_expiration_renew_errors",
            }[side]
            # upstream's name, which lacks the _total that a counter would get
            yield UnknownMetricFamily(name, "Failed attempts to renew it", value=each.failures)
