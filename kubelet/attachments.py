"""What was attached to the pod network, remembered in one file a sandbox: <cniCacheDir>/results/<network>-<sandbox>-eth0.

The format is libcni's. A file is written *before* ADD, then again with the result, and removed after DEL. Hence:

    no file          nothing was ever attached
    file, no result  an ADD was under way when we died: the sandbox has no usable network, DEL is due
    file, result     attached; the pod's addresses are in it, and DEL works with the configuration of its day

so that a kill -9 at any point leaks no address: whoever finds a file without a living sandbox detaches it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni import spec as cni
from kubelet.runtime import IPAddress

INTERFACE = "eth0"

log = logging.getLogger(__name__)


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


class Attachments:
    """The cache's directory; read once, then kept in step with it."""

    def __init__(self, cache_dir: str) -> None:
        self._folder = os.path.join(cache_dir, "results")
        self._entries: dict[str, Attachment] | None = None

    def all(self) -> Mapping[str, Attachment]:
        """By sandbox id."""
        return self._known()

    def write(self, entry: Attachment) -> None:
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
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = self._file(entry)
        temporary = f"{path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(document, file)
        os.replace(temporary, path)
        self._known()[entry.sandbox_id] = entry

    def forget(self, entry: Attachment) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(entry))
        self._known().pop(entry.sandbox_id, None)

    def _known(self) -> dict[str, Attachment]:
        if self._entries is None:
            self._entries = {}
            with contextlib.suppress(FileNotFoundError):
                for path in Path(self._folder).iterdir():
                    if path.suffix == ".tmp":  # of a write that was cut short
                        path.unlink(missing_ok=True)
                    elif (entry := _read(path)) is not None:
                        self._entries[entry.sandbox_id] = entry
        return self._entries

    def _file(self, entry: Attachment) -> str:
        return os.path.join(self._folder, f"{entry.network}-{entry.sandbox_id}-{INTERFACE}")


def _read(path: Path) -> Attachment | None:
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
