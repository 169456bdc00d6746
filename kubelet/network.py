"""Gives a sandbox its network by calling CNI plugins, and takes it back.

The configuration is the first file of cniConfDir in lexical order that can be read (`.conflist`, `.conf`, `.json`), as
with every CNI runtime; of several versions that it offers (`cniVersions`) the newest is spoken. ADD walks its plugins
forward, each fed the result of the one before; DEL walks them backward. A network at 1.1 is also asked whether an ADD would
succeed (STATUS: the node is ready or not), and told which attachments are still valid (GC: at the start and then now
and again), so that what nobody will ever DEL is given back. (github.com/containernetworking/cni, SPEC.md sections 1 to 4)

What was attached is remembered (`kubelet.attachments`), from before the ADD until after the DEL.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from cni import spec as cni
from kubelet.attachments import INTERFACE, Attachment, Attachments
from kubelet.runtime import IPAddress, NetworkUnavailable, PodIdentity, PortMapping
from linux.process import CommandFailed, run
from linux.rtnetlink import Socket

GC_SECONDS = 600.0
"""Between two collections; the first is at the start."""

_PORTS, _BANDWIDTH = "portMappings", "bandwidth"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_GOOD, _BAD = 30.0, 1.0
"""Seconds for which an answer to STATUS counts."""
_STATUS_SECONDS = 5.0
"""For a plugin to answer it: the node's own status waits for that."""
_WITHOUT_LINKS = {"portmap", "bandwidth"}  # they add rules to what others have made

log = logging.getLogger(__name__)


class _PluginError(Exception):
    """A plugin's refusal, or the lack of an answer, in one line."""


@dataclass(slots=True)
class Network:
    """The pod network of this node, as its CNI configuration says."""

    conf_dir: str
    bin_dirs: Sequence[str]
    cache_dir: str
    timeout: float = 60.0  # seconds a plugin may take
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _cache: Attachments = field(init=False)
    _collecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _collected: float = float("-inf")
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _answer: tuple[bytes, float, str] = (b"", 0.0, "")

    def __post_init__(self) -> None:
        self._cache = Attachments(self.cache_dir)

    # State

    def config(self) -> tuple[cni.Network, bytes]:
        """The configuration in force and its text, read anew each time. NetworkUnavailable says what is missing."""
        try:
            names = sorted(name for name in os.listdir(self.conf_dir) if name.endswith((".conflist", ".conf", ".json")))
        except OSError as error:
            raise NetworkUnavailable(f"cni config uninitialized: {self.conf_dir}: {error.strerror}") from error
        broken = ""
        for name in names:
            path = os.path.join(self.conf_dir, name)
            try:
                source = Path(path).read_bytes()
                beside = _beside(self.conf_dir, source)
                network = cni.parse_network(source, beside)
                return network, _whole(network) if beside else source
            except (OSError, cni.CniError) as error:
                broken = broken or f"{path}: {error}"
        raise NetworkUnavailable(f"cni config uninitialized: {broken or f'no networks found in {self.conf_dir}'}")

    async def obstacle(self) -> str:
        """Why no pod can be attached now; "" when nothing is known to be in the way."""
        try:
            network, source = self.config()
            for plugin in network.plugins:
                self._binary(plugin.type)
        except (NetworkUnavailable, _PluginError) as error:
            return str(error)
        if not network.status:
            return _waiting(network)
        async with self._asking:
            asked, until, answer = self._answer
            if asked != source or time.monotonic() >= until:
                answer = await self._status(network)
                self._answer = (source, time.monotonic() + (_BAD if answer else _GOOD), answer)
        return answer

    async def _status(self, network: cni.Network) -> str:
        for plugin in network.plugins:
            try:
                await self._call("STATUS", network, plugin, timeout=_STATUS_SECONDS)
            except _PluginError as error:
                return f"cni network {network.name!r}: {error}"
        return ""

    def attachments(self) -> Mapping[str, Attachment]:
        """By sandbox id."""
        return self._cache.all()

    def wired(self, entry: Attachment) -> bool:
        """False when the host's end of what our own plugin made is gone or off its bridge, because somebody has deleted one of
        them: only a new sandbox brings the pod back. Others' plugins name links that never were, so theirs are believed."""
        links = [each["name"] for each in (entry.result or {}).get("interfaces") or () if not each.get("sandbox")]
        first, *others = [each.type for each in cni.parse_network(entry.source).plugins]
        if len(links) < 2 or first != "wherry-cni" or not _WITHOUT_LINKS.issuperset(others):
            return True
        with Socket() as host:
            bridge, port = (host.link(name) for name in links[:2])
        return bridge is not None and port is not None and port.master == bridge.index

    # Verbs

    async def add(
        self,
        sandbox_id: str,
        netns: str,
        pod: PodIdentity,
        ports: Sequence[PortMapping] = (),
        bandwidth: Mapping[str, int] | None = None,
    ) -> tuple[IPAddress, ...]:
        """Attach and return the pod's addresses, first one first. On failure what was done is undone. `ports` and `bandwidth`
        are for plugins that ask for these capabilities; where none asks for ports, no hostPort can be had."""
        async with self._lock(sandbox_id):
            network, source = self.config()
            offered = {name for plugin in network.plugins for name in plugin.capabilities}
            if ports and _PORTS not in offered:
                raise NetworkUnavailable(
                    f'hostPort: no plugin of network {network.name!r} has the capability {_PORTS}: chain the "portmap" plugin '
                    "in its configuration list"
                )
            if bandwidth and _BANDWIDTH not in offered:
                log.warning(
                    "%s/%s: its bandwidth is not limited: no plugin of network %r has the capability %s",
                    *(pod.namespace, pod.name, network.name, _BANDWIDTH),
                )
            capabilities: dict[str, Any] = {_PORTS: [_port(each) for each in ports]} if ports else {}
            if bandwidth:
                capabilities[_BANDWIDTH] = dict(bandwidth)
            entry = Attachment(sandbox_id, network.name, source, _arguments(sandbox_id, pod), capabilities=capabilities)
            async with self._collecting:  # from here on it is valid; a collection under way does not know that
                self._cache.write(entry)
            try:
                entry = await self._attach(network, entry, netns)
            except _PluginError as error:
                with contextlib.suppress(NetworkUnavailable):
                    await self._detach(entry, netns)
                raise NetworkUnavailable(f'failed to setup network for sandbox "{sandbox_id}": {error}') from error
            self._cache.write(entry)
            return entry.ips

    async def _attach(self, network: cni.Network, entry: Attachment, netns: str) -> Attachment:
        result: Mapping[str, Any] | None = None
        ips: tuple[IPAddress, ...] = ()
        for plugin in network.plugins:
            answer = await self._call("ADD", network, plugin, entry, netns, result)
            try:
                ips = tuple(each.ip for each in cni.parse_result(answer).ips())
            except cni.CniError as error:
                raise _PluginError(f'plugin type="{plugin.type}" failed (add): {error}: {answer[:200]!r}') from error
            result = json.loads(answer)
        if not ips:
            raise _PluginError(f"network {network.name!r} gave no address")
        return dataclasses.replace(entry, result=result, ips=ips)

    async def check(self, sandbox_id: str, netns: str) -> None:
        """NetworkUnavailable when the plugins find the attachment gone or wrong."""
        async with self._lock(sandbox_id):
            entry = self.attachments().get(sandbox_id)
            if entry is None or entry.result is None:
                raise NetworkUnavailable(f'sandbox "{sandbox_id}" has no network')
            network = cni.parse_network(entry.source)
            for plugin in network.plugins if network.check else ():
                try:
                    await self._call("CHECK", network, plugin, entry, netns, entry.result)
                except _PluginError as error:
                    raise NetworkUnavailable(f'network of sandbox "{sandbox_id}": {error}') from error

    async def delete(self, sandbox_id: str, netns: str = "") -> None:
        """Detach; nothing to do is success. `netns` "" when the namespace is gone. NetworkUnavailable: call again."""
        async with self._lock(sandbox_id):
            entry = self.attachments().get(sandbox_id)
            if entry is not None:
                await self._detach(entry, netns)

    async def _detach(self, entry: Attachment, netns: str) -> None:
        network = cni.parse_network(entry.source) if entry.source else self.config()[0]
        failed = ""
        for plugin in reversed(network.plugins):
            try:
                await self._call("DEL", network, plugin, entry, netns, entry.result)
            except _PluginError as error:  # the others still get their turn
                failed = failed or str(error)
        if failed:
            raise NetworkUnavailable(f'failed to destroy network for sandbox "{entry.sandbox_id}": {failed}')
        self._cache.forget(entry)

    async def collect(self) -> None:
        """The plugins give back what belongs to none of the attachments, if it is time and their network takes GC. What one of
        them cannot do is told, and left for the next time."""
        if time.monotonic() < self._collected + GC_SECONDS:
            return
        try:
            network, _ = self.config()
        except NetworkUnavailable:
            return  # there will be one
        self._collected = time.monotonic()
        if not network.gc:
            return
        async with self._collecting:
            valid = [
                (each.sandbox_id, INTERFACE) for each in self.attachments().values() if each.network == network.name
            ]
            for plugin in network.plugins:
                try:
                    await self._call("GC", network, plugin, valid=valid)
                except _PluginError as error:
                    log.warning("giving back what nobody uses of cni network %r: %s", network.name, error)

    # The exec protocol

    async def _call(
        self,
        command: str,
        network: cni.Network,
        plugin: cni.Plugin,
        entry: Attachment | None = None,
        netns: str = "",
        previous: Mapping[str, Any] | None = None,
        valid: Sequence[tuple[str, str]] | None = None,
        timeout: float = math.inf,
    ) -> bytes:
        """What one plugin printed."""
        what = f'plugin type="{plugin.type}" failed ({command.lower()})'
        environment = cni.environment(
            command,
            container=entry.sandbox_id if entry else "",
            netns=netns,
            ifname=INTERFACE if entry else "",
            args=entry.arguments if entry else "",
            path=":".join(self.bin_dirs),
        )
        request = network.request(plugin, previous, entry.capabilities if entry else None, valid)
        try:
            done = await run(
                [self._binary(plugin.type)],
                input=json.dumps(request).encode(),
                timeout=min(timeout, self.timeout),
                check=False,
                env={"PATH": os.environ.get("PATH", _PATH), **environment},
            )
        except CommandFailed as error:
            raise _PluginError(f"{what}: {error}") from error
        if done.returncode:
            refusal = cni.parse_error(done.stdout)
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
            raise _PluginError(f"{what}: {refusal or said or 'it said nothing'}")
        return done.stdout

    def _binary(self, kind: str) -> str:
        for folder in self.bin_dirs:
            path = os.path.join(folder, kind)
            if os.access(path, os.X_OK):
                return path
        raise _PluginError(f'failed to find plugin "{kind}" in path [{" ".join(self.bin_dirs)}]')

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        return self._locks.setdefault(sandbox_id, asyncio.Lock())


def _waiting(network: cni.Network) -> str:
    """What our own plugin would answer to STATUS in a network of a version that has none."""
    for plugin in network.plugins:
        subnet = plugin.configuration.get("subnetFile")
        if plugin.type == "wherry-cni" and isinstance(subnet, str) and not os.path.exists(subnet):
            return f"cni network {network.name!r} waits for {subnet}: the overlay writes it once the node has a podCIDR"
    return ""


def _beside(conf_dir: str, source: bytes) -> list[bytes]:
    """The plugins' files in the folder of the network's name, which a list may take in."""
    try:
        document = json.loads(source)
        folder = Path(conf_dir, str(document["name"]))
        return [path.read_bytes() for path in sorted(folder.glob("*.conf"))] if "plugins" in document else []
    except (ValueError, KeyError, TypeError):
        return []  # whoever parses it says what is wrong


def _whole(network: cni.Network) -> bytes:
    """The list as it was put together: a DEL must not depend on files that may change."""
    document = {
        "cniVersion": network.version,
        "name": network.name,
        "disableCheck": not network.check,
        "disableGC": not network.gc,
        "loadOnlyInlinedPlugins": True,
        "plugins": [plugin.configuration for plugin in network.plugins],
    }
    return json.dumps(document).encode()


def _port(mapping: PortMapping) -> dict[str, Any]:
    """In the words of github.com/containernetworking/cni, CONVENTIONS.md."""
    told: dict[str, Any] = {
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol.lower(),
    }
    return told | ({"hostIP": mapping.host_ip} if mapping.host_ip else {})


def _arguments(sandbox_id: str, pod: PodIdentity) -> str:
    """CNI_ARGS as every CRI runtime sends them (containerd: pkg/cri/sbserver/sandbox_run.go)."""
    return ";".join(
        (
            "IgnoreUnknown=1",
            f"K8S_POD_NAMESPACE={pod.namespace}",
            f"K8S_POD_NAME={pod.name}",
            f"K8S_POD_INFRA_CONTAINER_ID={sandbox_id}",
            f"K8S_POD_UID={pod.uid}",
        )
    )
