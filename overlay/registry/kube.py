"""Subnets from the Kubernetes API: the Nodes' podCIDRs, and flannel's annotations on the Nodes.

The copy of the Nodes stays when the API server goes away, and so does what is built from it; a start without the API server
goes on, after some patience, from what the Nodes said last (`memory`). A restart goes on with the MAC addresses that are
announced; once this process has announced something, that is what counts, and an annotation of ours that somebody changes
is written again.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Never

from kube import meta
from kube.client import Client, Patch
from kube.core import Node
from kube.errors import ApiError, Retry, UsageError
from kube.informer import Change, Informer
from kube.kubeconfig import Connection
from kube.reconcile import Backoff, Wake, forever
from kube.resources import NODES, PODS
from linux.iptables.rules import Family
from overlay import netconf
from overlay.model import Address, Lease, NotYet, Vtep
from overlay.netconf import Network
from overlay.registry import annotations, memory
from overlay.subnets import Announced, Claims, Offer, Own

log = logging.getLogger(__name__)

_PATIENCE = 3.0
"""Seconds for which the API server is waited for before what was kept counts."""
_KEEP_PAUSE = 1.0
_SELDOM = 3600.0
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def connection(kubeconfig: str, url: str) -> Connection:
    """The way to the API server; without either in a Pod the Pod's own. Raises UsageError."""
    if kubeconfig:
        found = Connection.from_kubeconfig(kubeconfig)
        return found if not url else _at(found, url)
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not url and not host:
        raise UsageError(
            "--kube-subnet-mgr: --kubeconfig is required outside of a Pod: it says where the API server is"
        )
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    if url:
        return _at(Connection(server=url), url)
    try:
        token, ca = (ACCOUNT / "token").read_text().strip(), (ACCOUNT / "ca.crt").read_bytes()
    except OSError as error:
        raise UsageError(
            f"{ACCOUNT}: {error.strerror}; mount the service account's token, or give --kubeconfig"
        ) from error
    return Connection(server=server, ca=ca, token=token)


def network(path: str) -> Network:
    """Read net-conf.json; raises UsageError naming the key and the remedy."""
    where = f"--net-config-path {path}"
    try:
        return netconf.parse(Path(path).read_bytes(), where)
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}; write flannel's net-conf.json there") from error
    except netconf.Unfit as error:
        raise UsageError(str(error)) from error


class KubeSubnets:
    """Satisfies `overlay.subnets.Subnets`. `node`: this node's name; empty: find it out. `remembered`: where what the Nodes say
    is kept (only read, not written, with `read_only`)."""

    def __init__(
        self,
        client: Client,
        net: Network,
        prefix: str,
        *,
        node: str = "",
        condition: bool = True,
        remembered: Path | None = None,
        read_only: bool = False,
    ) -> None:
        self._client, self._net, self._prefix, self._condition = client, net, prefix, condition
        self._name = node or os.environ.get("NODE_NAME", "")
        self._pod = os.environ.get("POD_NAME", ""), os.environ.get("POD_NAMESPACE", "")
        self._nodes: Informer[Node] = Informer(client, NODES)
        self.synced = asyncio.Event()
        self._remembered = remembered
        self._keeps = remembered is not None and not read_only
        self._changes = Wake()
        self._written: Node | None = None
        """Our Node as the last patch left it; until the copy has caught up, this is what counts."""
        self._said: dict[Family, Lease] = {}
        self._since: float | None = None
        self._read: dict[str, tuple[Node, list[Lease], str]] = {}
        """Of each Node what was read in it; a thousand are not read again because one has changed."""

    @property
    def where(self) -> str:
        return self._client.server

    @property
    def peers(self) -> tuple[str, ...]:
        return (self._client.server,)

    async def run(self, changed: Callable[[], None]) -> Never:
        enough = asyncio.get_running_loop().time() + _PATIENCE
        if not self._name:
            self._name = await self._find_name(enough)

        def wake(change: Change[Node]) -> None:
            if self._claim(change.key, change.old) != self._claim(change.key, change.new):
                self._changes.set()
                changed()

        self._nodes.subscribe(wake)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._begin(changed, enough), name="memory")
            await self._nodes.run()

    async def _begin(self, changed: Callable[[], None], enough: float) -> None:
        """Wait for the Nodes, and only until the time is `enough` when it is known what they said last; then keep what they
        say."""
        try:
            async with asyncio.timeout_at(enough if self._remembered else None):
                await self._nodes.synced.wait()
        except TimeoutError:
            if self._remembered is not None:
                self._recall(self._remembered)
            await self._nodes.synced.wait()
        self.synced.set()
        changed()
        if self._keeps:
            try:
                await forever(self._keep, self._changes, resync=_SELDOM, min_interval=_KEEP_PAUSE, name="memory")
            finally:
                await self._keep()  # what came within the last second

    def _recall(self, file: Path) -> None:
        found, age = memory.recall(file)
        if not any(node.metadata.name == self._name for node in found.nodes):
            return
        self._nodes.recall(found.nodes)
        words = "%s does not answer: going on from what %d Nodes said %.0f s ago (%s)"
        log.warning(words, self.where, len(found.nodes), age, file)
        self.synced.set()

    async def _keep(self) -> None:
        if self._remembered is not None:
            memory.keep(self._remembered, self._name, self._nodes.items(), self._prefix)

    async def network(self) -> Network:
        return self._net

    def claims(self) -> Claims:
        leases: list[Lease] = []
        refused: dict[str, str] = {}
        read, self._read = self._read, {}
        for node in self._nodes.items():
            name = node.metadata.name
            if name == self._name:
                continue
            before = read.get(name)
            if before is None or before[0] is not node:
                before = (node, *annotations.leases_of(node, self._prefix, self._net.families))
            self._read[name] = before
            leases += before[1]
            if before[2]:
                refused[name] = before[2]
        return Claims(tuple(leases), refused)

    def asked(self) -> Mapping[Family, Address]:
        node, found = self._nodes.get(self._name), dict[Family, Address]()
        if node is None:
            return found
        for family in self._net.families:
            try:
                if address := annotations.asked(node, self._prefix, family):
                    found[family] = address
            except annotations.Unreadable as error:
                raise NotYet(str(error)) from error
        return found

    def hints(self) -> Sequence[Address]:
        node = self._nodes.get(self._name)
        found: list[Address] = []
        for one in node.status.addresses if node else ():
            if one.type == "InternalIP":
                with contextlib.suppress(ValueError):
                    found.append(ip_address(one.address))
        return found

    async def own(self, offer: Offer) -> Own:
        if not self.synced.is_set():
            raise NotYet(f"the Nodes have not come yet from {self.where}")
        node = self._node()
        if node is None:
            raise NotYet(f"there is no Node {self._name}: its kubelet registers it; --hostname-override names another")
        leases: dict[Family, Lease] = {}
        missing: dict[Family, str] = {}
        for family in self._net.families:
            if family not in offer.addresses:
                continue  # no underlay: the caller knows, and says so
            try:
                lease = self._lease(node, family, offer)
            except annotations.Unreadable as error:
                missing[family] = str(error)
                continue
            if lease is None:
                missing[family] = (
                    f"node {self._name} has no IPv{int(family)} podCIDR: the controllers' node IPAM assigns it "
                    "(wherry-controllers, or kube-controller-manager --allocate-node-cidrs=true)"
                )
            else:
                leases[family] = lease
        if not leases and missing:
            raise NotYet("; ".join(dict.fromkeys(missing.values())))
        return Own(leases, missing)

    async def announce(self, own: Mapping[Family, Lease]) -> Announced:
        node = self._node()
        if node is None:
            raise Retry(f"Node {self._name} has gone: its kubelet registers it again")
        fresh = {**self._said, **own}  # a family that cannot be looked at just now is still there
        body = annotations.patch_for(node, self._prefix, fresh, meta.now(), condition=self._condition)
        if body is None:
            self._said, self._since = fresh, self._since or time.time()
            return Announced(since=self._since)
        mended = self._mended(node, fresh, body)
        self._written = await self._client.patch(NODES, self._name, body, kind=Patch.STRATEGIC, subresource="status")
        self._said, self._since = fresh, time.time()
        said = tuple(f"{lease.subnet} behind {lease.public_ip}" for lease in fresh.values())
        return Announced(since=self._since, said=() if mended else said, mended=mended)

    def _mended(self, node: Node, fresh: Mapping[Family, Lease], body: Mapping[str, Any]) -> tuple[str, ...]:
        """What of a patch puts right what this process has said before: all of it, when it has said just that."""
        if self._said != fresh:
            return ()
        changed = body.get("metadata", {}).get("annotations", {})
        words = [
            f"Node {self._name}: annotation {key} was {node.metadata.annotations.get(key, 'missing')}, it is {value}"
            for key, value in changed.items()
        ]
        if "status" in body:
            words.append(f"Node {self._name}: condition {annotations.CONDITION} was not False by {annotations.REASON}")
        return tuple(words)

    def _lease(self, node: Node, family: Family, offer: Offer) -> Lease | None:
        subnet = annotations.pod_subnet(node, family)
        if subnet is None:
            return None
        public = annotations.overwritten(node, self._prefix, family) or offer.addresses[family]
        data = offer.data.get(family)
        if isinstance(data, Vtep):
            said = self._said.get(family)
            known = said.data if said else annotations.known_vtep(node, self._prefix, family)
            if isinstance(known, Vtep) and known.vni == data.vni:
                data = known
        return Lease(self._name, subnet, public, offer.backend, data, annotations.since(node))

    def _node(self) -> Node | None:
        """Our Node, as far as anybody here knows it."""
        copy = self._nodes.get(self._name)
        if copy is None or self._written is None or not _newer(self._written, copy):
            self._written = None
            return copy
        return self._written

    def _claim(self, key: str, node: Node | None) -> object:
        """For our own Node with the condition that is ours."""
        found = annotations.claim(node, self._prefix)
        if key != self._name or node is None:
            return found
        there = [(one.status, one.reason) for one in node.status.conditions if one.type == annotations.CONDITION]
        return found, there

    async def _find_name(self, enough: float) -> str:
        """Of the Pod we are in, else the host's. When the time is `enough`, what is remembered counts: it lies on this node."""
        name, namespace = self._pod
        if not name or not namespace:
            return socket.gethostname().lower()
        known = memory.recall(self._remembered)[0].node if self._remembered else ""
        try:
            async with asyncio.timeout_at(enough if known else None):
                return await self._ask_name(name, namespace)
        except TimeoutError:
            log.warning(
                "%s does not say on which node Pod %s/%s is: it was %s last", self.where, namespace, name, known
            )
            return known

    async def _ask_name(self, name: str, namespace: str) -> str:
        backoff, failures = Backoff(first=0.2, most=5.0), 0
        while True:
            try:
                return (await self._client.get(PODS, name, namespace)).spec.node_name
            except (ApiError, Retry) as error:
                failures += 1
                log.warning("cannot learn the node's name from Pod %s/%s: %s", namespace, name, error)
                await asyncio.sleep(backoff.delay(failures))


def _newer(written: Node, copy: Node) -> bool:
    """By resourceVersion, which upstream lets clients compare as numbers; where it is none, the copy counts."""
    one, other = written.metadata.resource_version, copy.metadata.resource_version
    same = written.metadata.uid == copy.metadata.uid
    return same and one.isdecimal() and other.isdecimal() and int(one) > int(other)


def _at(found: Connection, url: str) -> Connection:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--kube-api-url: {url!r} is not https://host:port")
    return replace(found, server=url.rstrip("/"))
