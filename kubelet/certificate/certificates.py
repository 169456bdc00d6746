"""The kubelet's certificates that the API signs: asked for, kept, and renewed long before they end.

    --bootstrap-kubeconfig   no kubeconfig yet, or its certificate has ended: a key is made, a CertificateSigningRequest is
                             filed as the bootstrap user, and --kubeconfig is written once it is issued
    rotateCertificates       at 70 to 90 % of its life (by chance, so that nodes do not ask all at once) the next one is
                             asked for as the node itself; requests go on under it at once, without a restart
    serverTLSBootstrap       the same for the certificate of the kubelet's own API

    <cert-dir>/kubelet-client-current.pem -> kubelet-client-<when>.pem      certificate and key, readable by root
    <cert-dir>/kubelet-client.key.tmp                                       a key whose certificate is on its way

A key on its way survives a restart, and the request is named after it: a kubelet that starts anew waits for the same request
instead of filing another. While there is no client certificate static pods run; what is asked of the API waits and says why.
(k8s.io/client-go/util/certificate; pkg/kubelet/certificate)
"""

import base64
import hashlib
import logging
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Never

from kube import certificates, trust
from kube.certificates import KeyPair
from kube.client import Client
from kube.errors import AlreadyExists, Retry
from kube.reconcile import Backoff, Wake, forever
from kube.resources import SIGNINGREQUESTS
from kube.signing import SigningRequest

log = logging.getLogger(__name__)

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
EARLIEST, SPREAD = 0.7, 0.2  # of a certificate's life
LOOK = 3600.0


class Refused(Retry):
    """The request was denied, or its signer failed."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: `name` is that of the files."""

    name: str
    signer: str
    usages: tuple[str, ...]
    common_name: str
    sans: tuple[str, ...] = ()


def client_wish(node: str) -> Wish:
    who = trust.kubelet(node).user
    return Wish("kubelet-client", CLIENT_SIGNER, ("digital signature", "client auth"), who)


def serving_wish(node: str, ips: tuple[str, ...]) -> Wish:
    who = trust.kubelet(node).user
    return Wish("kubelet-server", SERVING_SIGNER, ("digital signature", "server auth"), who, (node, *ips))


@dataclass(slots=True)
class Store:
    """One certificate's files."""

    folder: Path
    name: str

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}-current.pem"

    @property
    def _coming(self) -> Path:
        return self.folder / f"{self.name}.key.tmp"

    def current(self) -> KeyPair | None:
        """None when there is none, or none that can be read."""
        try:
            return _split(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s is passed over: %s", self.path, error)
            return None

    def key(self) -> bytes:
        """That of the request under way, or a new one."""
        try:
            key = self._coming.read_bytes()
            certificates.public_key(key)
        except (OSError, ValueError):
            key = certificates.signing_key()
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            trust.write(self._coming, key)
        return key

    def drop_key(self) -> None:
        self._coming.unlink(missing_ok=True)

    def keep(self, pair: KeyPair, now: datetime) -> None:
        """The new certificate, whole or not at all; of the older ones the last is left."""
        file = self.folder / f"{self.name}-{now:%Y-%m-%d-%H-%M-%S}.pem"
        trust.write(file, pair.certificate + pair.key)
        before = os.path.basename(os.path.realpath(self.path))
        link = self.folder / f".{self.name}-current.pem.new"
        link.unlink(missing_ok=True)
        link.symlink_to(file.name)
        link.rename(self.path)
        self.drop_key()
        for old in self.folder.glob(f"{self.name}-[0-9]*.pem"):
            if old.name not in (file.name, before):
                old.unlink(missing_ok=True)


def _split(text: bytes) -> KeyPair:
    """Certificates and key of one PEM file, whichever comes first."""
    blocks = [b"-----BEGIN" + block for block in text.split(b"-----BEGIN")[1:]]
    keys = [block for block in blocks if b"PRIVATE KEY" in block.partition(b"\n")[0]]
    if len(keys) != 1 or len(blocks) < 2:
        raise ValueError("a certificate and one key are needed")
    return certificates.belonging(b"".join(block for block in blocks if block is not keys[0]), keys[0])


def renewal(pair: KeyPair, chance: float) -> datetime:
    """When the next one is asked for."""
    found = certificates.leaf(pair.certificate)
    return found.begins + (found.ends - found.begins) * (EARLIEST + SPREAD * chance)


def usable(pair: KeyPair | None, common_name: str, now: datetime) -> bool:
    """Whether the certificate is this node's and still in force."""
    if pair is None:
        return False
    found = certificates.leaf(pair.certificate)
    return found.common_name == common_name and now < found.ends


@dataclass(slots=True)
class Certificate:
    """One certificate over time. `client` is who asks now; `taken(pair)` is told of each new one."""

    wish: Wish
    store: Store
    client: Callable[[], Client]
    taken: Callable[[KeyPair], None]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    pair: KeyPair | None = None
    renew: bool = True
    failures: int = 0
    _wake: Wake = field(default_factory=Wake)
    _due: tuple[bytes, datetime] | None = None

    @property
    def expires(self) -> datetime | None:
        return certificates.leaf(self.pair.certificate).ends if self.pair else None

    def due(self) -> datetime:
        """Chosen once for each certificate."""
        if self.pair is None:
            return self.clock()
        if not self.renew:
            return datetime.max.replace(tzinfo=UTC)
        if self._due is None or self._due[0] != self.pair.certificate:
            self._due = self.pair.certificate, renewal(self.pair, random.random())
            log.info("%s: the next certificate is asked for at %s", self.wish.name, self._due[1].isoformat())
        return self._due[1]

    async def run(self) -> Never:
        await forever(self.sync, self._wake, resync=LOOK, backoff=Backoff(first=1.0, most=60.0), name=self.wish.name)

    async def sync(self) -> float:
        """Ask if it is time; the seconds until it is."""
        if self.clock() >= self.due():
            try:
                pair = await self.ask()
            except Retry:
                self.failures += 1
                raise
            self.store.keep(pair, self.clock())
            self.pair = pair
            self.taken(pair)
        return max(0.0, (self.due() - self.clock()).total_seconds())

    async def ask(self) -> KeyPair:
        """File the request, or find it filed, and wait until it is decided."""
        key = self.store.key()
        name = _request_name(key, self.wish)
        body = {
            "metadata": {"name": name},
            "spec": {
                "request": base64.b64encode(
                    certificates.request(key, self.wish.common_name, ("system:nodes",), self.wish.sans)
                ).decode(),
                "signerName": self.wish.signer,
                "usages": list(self.wish.usages),
            },
        }
        try:
            await self.client().create(SIGNINGREQUESTS, body)
            log.info("certificate signing request %s is filed with %s; it waits for approval", name, self.wish.signer)
        except AlreadyExists:
            log.info("certificate signing request %s is waited for", name)
        pem = await self._decided(name)
        try:
            return certificates.belonging(pem, key)
        except ValueError as error:
            self.store.drop_key()
            raise Refused(f"certificate signing request {name}: what was issued cannot be used: {error}") from error

    async def _decided(self, name: str) -> bytes:
        client, selector = self.client(), f"metadata.name={name}"
        while True:
            page = await client.list(SIGNINGREQUESTS, field_selector=selector)
            if not page.items:
                raise Retry(f"certificate signing request {name} is gone; another one is filed")
            if found := self._outcome(page.items[0]):
                return found
            watching = client.watch(SIGNINGREQUESTS, field_selector=selector, resource_version=page.resource_version)
            async for event in watching:
                if event.type == "DELETED":
                    break
                if event.type != "BOOKMARK" and (found := self._outcome(event.object)):
                    return found

    def _outcome(self, request: SigningRequest) -> bytes:
        """The PEM chain; nothing while it is undecided. Raises Refused."""
        for condition in request.status.conditions:
            if condition.type in ("Denied", "Failed"):
                self.store.drop_key()
                raise Refused(
                    f"certificate signing request {request.metadata.name} is {condition.type.lower()}: "
                    f"{condition.reason}: {condition.message}"
                )
        return base64.b64decode(request.status.certificate)


def _request_name(key: bytes, wish: Wish) -> str:
    """The same for the same key and wish, as upstream's digested names are."""
    text = b"|".join([certificates.public_key(key), wish.signer.encode(), wish.common_name.encode(), *_encoded(wish)])
    return f"node-csr-{hashlib.sha256(text).hexdigest()[:43]}"


def _encoded(wish: Wish) -> list[bytes]:
    return [text.encode() for text in (*wish.usages, *wish.sans)]
