"""Gives a sandbox its network by calling CNI plugins, and takes it back.

The configuration is the first file of cniConfDir in lexical order that can be read (`.conflist`, `.conf`, `.json`), as
with every CNI runtime. ADD walks its plugins forward, each fed the result of the one before; DEL walks them backward.
Both speak the exec protocol of the CNI specification 1.0 (github.com/containernetworking/cni, SPEC.md sections 2 to 4).

What was attached is remembered in one file a sandbox, <cniCacheDir>/results/<network>-<sandbox>-eth0, in libcni's
format. It is written *before* ADD, then again with the result, and removed after DEL. Hence:

    no file          nothing was ever attached
    file, no result  an ADD was under way when we died: the sandbox has no usable network, DEL is due
    file, result     attached; the pod's addresses are in it, and DEL works with the configuration of its day

so that a kill -9 at any point leaks no address: whoever finds a file without a living sandbox calls `delete`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from cni import spec as cni
from kubelet.runtime import IPAddress, NetworkUnavailable, PodIdentity, PortMapping
from linux.process import CommandFailed, run
from linux.rtnetlink import Socket

INTERFACE = "eth0"
_PORTS = "portMappings"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

log = logging.getLogger(__name__)


class _PluginError(Exception):
    """A plugin's refusal, or the lack of an answer, in one line."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """An entry of the cache. `source` is the configuration's text, `result` the last plugin's answer; None: halfway."""

    sandbox_id: str
    network: str
    source: bytes
    arguments: str
    result: Mapping[str, Any] | None = None
    ips: tuple[IPAddress, ...] = ()
    capabilities: Mapping[str, Any] = field(default_factory=dict)  # told to the plugins that ask for them


@dataclass(slots=True)
class Network:
    """The pod network of this node, as its CNI configuration says."""

    conf_dir: str
    bin_dirs: Sequence[str]
    cache_dir: str
    timeout: float = 60.0  # seconds a plugin may take
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _attached: dict[str, Attachment] | None = None

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
                return cni.parse_network(source), source
            except (OSError, cni.CniError) as error:
                broken = broken or f"{path}: {error}"
        raise NetworkUnavailable(f"cni config uninitialized: {broken or f'no networks found in {self.conf_dir}'}")

    def obstacle(self) -> str:
        """Why no pod can be attached now; "" when nothing is known to be in the way."""
        try:
            network, _ = self.config()
            for plugin in network.plugins:
                self._binary(plugin.type)
        except (NetworkUnavailable, _PluginError) as error:
            return str(error)
        for plugin in network.plugins:
            subnet = plugin.configuration.get("subnetFile")
            if plugin.type == "wherry-cni" and isinstance(subnet, str) and not os.path.exists(subnet):
                return f"cni network {network.name!r} waits for {subnet}: the overlay writes it once the node has a podCIDR"
        return ""

    def attachments(self) -> Mapping[str, Attachment]:
        """By sandbox id; read from disk once, then kept in step with it."""
        if self._attached is None:
            self._attached = {}
            with contextlib.suppress(FileNotFoundError):
                for path in Path(self._results).iterdir():
                    if path.suffix == ".tmp":  # of a write that was cut short
                        path.unlink(missing_ok=True)
                    elif (entry := _read_attachment(path)) is not None:
                        self._attached[entry.sandbox_id] = entry
        return self._attached

    def wired(self, entry: Attachment) -> bool:
        """False when the host's end of what our own plugin made is gone or off its bridge, because somebody has deleted one of
        them: only a new sandbox brings the pod back. Others' plugins name links that never were, so theirs are believed."""
        links = [each["name"] for each in (entry.result or {}).get("interfaces") or () if not each.get("sandbox")]
        chain = [each.type for each in cni.parse_network(entry.source).plugins]
        if len(links) != 2 or chain not in (["wherry-cni"], ["wherry-cni", "portmap"]):  # portmap makes rules, no links
            return True
        with Socket() as host:
            bridge, port = (host.link(name) for name in links)
        return bridge is not None and port is not None and port.master == bridge.index

    # Verbs

    async def add(
        self, sandbox_id: str, netns: str, pod: PodIdentity, ports: Sequence[PortMapping] = ()
    ) -> tuple[IPAddress, ...]:
        """Attach and return the pod's addresses, first one first. On failure what was done is undone. `ports` are for a
        plugin that asks for the capability portMappings; where none does, no hostPort can be had."""
        async with self._lock(sandbox_id):
            network, source = self.config()
            if ports and not any(_PORTS in plugin.capabilities for plugin in network.plugins):
                raise NetworkUnavailable(
                    f'hostPort: no plugin of network {network.name!r} has the capability {_PORTS}: chain the "portmap" plugin '
                    "in its configuration list"
                )
            capabilities = {_PORTS: [_port(each) for each in ports]} if ports else {}
            entry = Attachment(sandbox_id, network.name, source, _arguments(sandbox_id, pod), capabilities=capabilities)
            self._write(entry)
            try:
                entry = await self._attach(network, entry, netns)
            except _PluginError as error:
                with contextlib.suppress(NetworkUnavailable):
                    await self._detach(entry, netns)
                raise NetworkUnavailable(f'failed to setup network for sandbox "{sandbox_id}": {error}') from error
            self._write(entry)
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
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(entry))
        if self._attached is not None:
            self._attached.pop(entry.sandbox_id, None)

    # The exec protocol

    async def _call(
        self,
        command: str,
        network: cni.Network,
        plugin: cni.Plugin,
        entry: Attachment,
        netns: str,
        previous: Mapping[str, Any] | None,
    ) -> bytes:
        """What one plugin printed."""
        what = f'plugin type="{plugin.type}" failed ({command.lower()})'
        environment = cni.environment(
            command,
            container=entry.sandbox_id,
            netns=netns,
            ifname=INTERFACE,
            args=entry.arguments,
            path=":".join(self.bin_dirs),
        )
        try:
            done = await run(
                [self._binary(plugin.type)],
                input=json.dumps(network.request(plugin, previous, entry.capabilities)).encode(),
                timeout=self.timeout,
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

    # The cache

    @property
    def _results(self) -> str:
        return os.path.join(self.cache_dir, "results")

    def _file(self, entry: Attachment) -> str:
        return os.path.join(self._results, f"{entry.network}-{entry.sandbox_id}-{INTERFACE}")

    def _write(self, entry: Attachment) -> None:
        document = {
            "kind": "cniCacheV1",
            "containerId": entry.sandbox_id,
            "config": base64.b64encode(entry.source).decode(),
            "ifName": INTERFACE,
            "networkName": entry.network,
            "cniArgs": [pair.split("=", 1) for pair in entry.arguments.split(";")],
            "result": entry.result,
        }
        if entry.capabilities:
            document["capabilityArgs"] = entry.capabilities
        os.makedirs(self._results, mode=0o700, exist_ok=True)
        path = self._file(entry)
        temporary = f"{path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(document, file)
        os.replace(temporary, path)
        attached = self.attachments()
        assert isinstance(attached, dict)
        attached[entry.sandbox_id] = entry

    def _lock(self, sandbox_id: str) -> asyncio.Lock:
        return self._locks.setdefault(sandbox_id, asyncio.Lock())


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


def _read_attachment(path: Path) -> Attachment | None:
    """A file of the cache; a torn one still names its sandbox, so that DEL can be called with today's configuration."""
    parts = path.name.rsplit("-", 2)
    if len(parts) != 3 or parts[2] != INTERFACE:
        return None
    network, sandbox_id, _ = parts
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        source = base64.b64decode(document["config"])
        cni.parse_network(source)
        arguments = ";".join("=".join(pair) for pair in document.get("cniArgs") or [])
        result = document.get("result")
        found = cni.parse_result(json.dumps(result).encode()).ips() if result is not None else ()
        ips = tuple(each.ip for each in found)
        return Attachment(sandbox_id, network, source, arguments, result, ips, document.get("capabilityArgs") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, cni.CniError) as error:
        log.warning("%s is damaged (%r): its sandbox counts as not attached", path, error)
        return Attachment(sandbox_id, network, b"", f"IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={sandbox_id}")
