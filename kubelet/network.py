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
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from kubelet.runtime import IPAddress, NetworkUnavailable, PodIdentity
from linux.process import CommandFailed, run

INTERFACE = "eth0"
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

log = logging.getLogger(__name__)


class _PluginError(Exception):
    """A plugin's answer, or the lack of one."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    source: str  # the text, as the cache keeps it
    disable_check: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
    """A line of the cache. `result` None: attached halfway."""

    sandbox_id: str
    network: str
    config: NetworkConfig | None
    arguments: str
    result: Mapping[str, Any] | None

    @property
    def ips(self) -> tuple[IPAddress, ...]:
        return addresses(self.result) if self.result is not None else ()


def parse_config(text: str, path: str) -> NetworkConfig:
    """A list, or a single plugin turned into one. ValueError names the file and the field."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path}: a JSON object is expected")  # noqa: TRY004 - one kind of error for a bad file
    name, version = document.get("name"), document.get("cniVersion", "0.3.1")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{path}: name: a network needs a name")
    if version not in VERSIONS:
        raise ValueError(f"{path}: cniVersion: {version!r} is not supported; use one of {', '.join(VERSIONS)}")
    plugins = document.get("plugins") if "plugins" in document or "type" not in document else [document]
    if not isinstance(plugins, list) or not plugins:
        raise ValueError(f"{path}: plugins: a list with at least one plugin is expected")
    for index, plugin in enumerate(plugins):
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or not plugin["type"]:
            raise ValueError(f"{path}: plugins[{index}].type: the name of a plugin is expected")
        if "/" in plugin["type"]:
            raise ValueError(f"{path}: plugins[{index}].type: {plugin['type']!r} must not contain '/'")
    return NetworkConfig(name, version, tuple(plugins), text, bool(document.get("disableCheck", False)))


def addresses(result: Mapping[str, Any]) -> tuple[IPAddress, ...]:
    """The sandbox's own addresses of a CNI result, in order. ValueError when it is none."""
    found: list[IPAddress] = []
    try:
        interfaces = result.get("interfaces") or []
        for entry in result.get("ips") or []:
            index = entry.get("interface")
            # An address on an interface without a sandbox is the host's end (spec section 5, "ips").
            if isinstance(index, int) and index < len(interfaces) and not interfaces[index].get("sandbox"):
                continue
            found.append(ip_interface(entry["address"]).ip)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a CNI result: {error!r} in {str(result)[:300]}") from error
    return tuple(found)


@dataclass(slots=True)
class Network:
    """The pod network of this node, as its CNI configuration says."""

    conf_dir: str
    bin_dirs: Sequence[str]
    cache_dir: str
    timeout: float = 60.0  # seconds a plugin may take
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _attached: dict[str, Attachment] | None = None

    # State

    def config(self) -> NetworkConfig:
        """The configuration in force, read anew each time. NetworkUnavailable says what is missing."""
        try:
            names = sorted(name for name in os.listdir(self.conf_dir) if name.endswith((".conflist", ".conf", ".json")))
        except OSError as error:
            raise NetworkUnavailable(f"cni config uninitialized: {self.conf_dir}: {error.strerror}") from error
        broken = ""
        for name in names:
            path = os.path.join(self.conf_dir, name)
            try:
                return parse_config(Path(path).read_text(encoding="utf-8"), path)
            except (OSError, ValueError) as error:
                broken = broken or str(error)
        raise NetworkUnavailable(f"cni config uninitialized: {broken or f'no networks found in {self.conf_dir}'}")

    def obstacle(self) -> str:
        """Why no pod can be attached now; "" when nothing is known to be in the way."""
        try:
            config = self.config()
            for plugin in config.plugins:
                self._binary(plugin["type"])
        except (NetworkUnavailable, _PluginError) as error:
            return str(error)
        for plugin in config.plugins:
            subnet = plugin.get("subnetFile")
            if plugin["type"] == "wherry-cni" and subnet and "subnet" not in plugin and not os.path.exists(subnet):
                return (
                    f"cni network {config.name!r} waits for {subnet}: the overlay writes it once the node has a podCIDR"
                )
        return ""

    def attachments(self) -> Mapping[str, Attachment]:
        """By sandbox id; read from disk once, then kept in step with it."""
        if self._attached is None:
            self._attached = {}
            with contextlib.suppress(FileNotFoundError):
                for path in Path(self._results).iterdir():
                    entry = _read_attachment(path)
                    if entry is not None:
                        self._attached[entry.sandbox_id] = entry
        return self._attached

    # Verbs

    async def add(self, sandbox_id: str, netns: str, pod: PodIdentity) -> tuple[IPAddress, ...]:
        """Attach and return the pod's addresses, first one first. On failure what was done is undone."""
        async with self._lock(sandbox_id):
            config = self.config()
            arguments = _arguments(sandbox_id, pod)
            entry = Attachment(sandbox_id, config.name, config, arguments, None)
            self._write(entry)
            try:
                result = await self._attach(config, entry, netns)
            except _PluginError as error:
                with contextlib.suppress(NetworkUnavailable):
                    await self._detach(entry, netns)
                raise NetworkUnavailable(f'failed to setup network for sandbox "{sandbox_id}": {error}') from error
            done = Attachment(sandbox_id, config.name, config, arguments, result)
            self._write(done)
            return done.ips

    async def _attach(self, config: NetworkConfig, entry: Attachment, netns: str) -> Mapping[str, Any]:
        result: Mapping[str, Any] = {}
        for plugin in config.plugins:
            result = await self._call("ADD", plugin, config, entry, netns, result or None) or {}
        try:
            found = addresses(result)
        except ValueError as error:
            raise _PluginError(str(error)) from error
        if not found:
            raise _PluginError(f'network "{config.name}" gave no address')
        return result

    async def check(self, sandbox_id: str, netns: str) -> None:
        """NetworkUnavailable when the plugins find the attachment gone or wrong."""
        async with self._lock(sandbox_id):
            entry = self.attachments().get(sandbox_id)
            if entry is None or entry.result is None:
                raise NetworkUnavailable(f'sandbox "{sandbox_id}" has no network')
            config = entry.config
            if config is None or config.disable_check or config.version < "0.4.0":
                return
            for plugin in config.plugins:
                try:
                    await self._call("CHECK", plugin, config, entry, netns, entry.result)
                except _PluginError as error:
                    raise NetworkUnavailable(f'network of sandbox "{sandbox_id}": {error}') from error

    async def delete(self, sandbox_id: str, netns: str = "") -> None:
        """Detach; nothing to do is success. `netns` "" when the namespace is gone. NetworkUnavailable: call again."""
        async with self._lock(sandbox_id):
            entry = self.attachments().get(sandbox_id)
            if entry is not None:
                await self._detach(entry, netns)
        self._locks.pop(sandbox_id, None)

    async def _detach(self, entry: Attachment, netns: str) -> None:
        config = entry.config or self.config()
        failed = ""
        for plugin in reversed(config.plugins):
            try:
                await self._call("DEL", plugin, config, entry, netns, entry.result)
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
        plugin: Mapping[str, Any],
        config: NetworkConfig,
        entry: Attachment,
        netns: str,
        previous: Mapping[str, Any] | None,
    ) -> Mapping[str, Any] | None:
        """One plugin's answer: its result for ADD, None otherwise."""
        kind = plugin["type"]
        fed = {**plugin, "name": config.name, "cniVersion": config.version}
        if previous is not None and (command != "DEL" or config.version >= "0.4.0"):
            fed["prevResult"] = previous
        environment = {
            "PATH": os.environ.get("PATH", _PATH),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": entry.sandbox_id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": INTERFACE,
            "CNI_ARGS": entry.arguments,
            "CNI_PATH": ":".join(self.bin_dirs),
        }
        what = f'plugin type="{kind}" failed ({command.lower()})'
        try:
            done = await run(
                [self._binary(kind)],
                input=json.dumps(fed).encode(),
                timeout=self.timeout,
                check=False,
                env=environment,
            )
        except CommandFailed as error:
            raise _PluginError(f"{what}: {error}") from error
        if done.returncode:
            raise _PluginError(f"{what}: {_refusal(done.stdout, done.stderr, done.returncode)}")
        if command != "ADD":
            return None
        try:
            result = json.loads(done.stdout)
        except ValueError as error:
            raise _PluginError(f"{what}: its output is no JSON: {done.stdout[:200]!r}") from error
        if not isinstance(result, dict):
            raise _PluginError(f"{what}: its output is no result: {done.stdout[:200]!r}")
        return result

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
        assert entry.config is not None
        document = {
            "kind": "cniCacheV1",
            "containerId": entry.sandbox_id,
            "config": base64.b64encode(entry.config.source.encode()).decode(),
            "ifName": INTERFACE,
            "networkName": entry.network,
            "cniArgs": [pair.split("=", 1) for pair in entry.arguments.split(";")],
            "result": entry.result,
        }
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


def _refusal(output: bytes, errors: bytes, code: int) -> str:
    """A plugin's error object as text, or what can be said without one."""
    try:
        document = json.loads(output)
        message = ": ".join(part for part in (document["msg"], document.get("details", "")) if part)
        return f"{message} (code {document['code']})"
    except (ValueError, KeyError, TypeError):
        text = (errors or output).decode(errors="replace").strip()
        return f"exit status {code}: {text[-500:] or 'no output'}"


def _read_attachment(path: Path) -> Attachment | None:
    """A file of the cache; a torn one still names its sandbox, so that DEL can be called with today's configuration."""
    parts = path.name.rsplit("-", 2)
    if len(parts) != 3 or parts[2] != INTERFACE:
        return None
    network, sandbox_id, _ = parts
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        config = parse_config(base64.b64decode(document["config"]).decode(), str(path))
        arguments = ";".join("=".join(pair) for pair in document.get("cniArgs") or [])
        result = document.get("result")
        if result is not None:
            addresses(result)
        return Attachment(sandbox_id, network, config, arguments, result)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%r): its sandbox counts as not attached", path, error)
        return Attachment(sandbox_id, network, None, f"IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID={sandbox_id}", None)
