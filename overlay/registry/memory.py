"""What the Nodes said last, kept beside subnet.env for a start while the API server is away.

Only what a network is made of: names, podCIDRs, our annotations; and which of them we are, for a Pod that would have to ask
the API server who it is. It lies in /run, so that a machine that was switched off does
not come back with a network of yesterday. The first list from the API server puts everything right.
"""

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from kube.core import Node, NodeSpec, NodeStatus
from kube.meta import ObjectMeta
from overlay.documents import decoded
from overlay.registry import annotations

log = logging.getLogger(__name__)


def path(subnet_file: str) -> Path:
    return Path(subnet_file).with_name("nodes.json")


def leases(subnet_file: str) -> Path:
    """Where the leases in etcd are kept for the same purpose (`etcd_view`)."""
    return Path(subnet_file).with_name("leases.json")


class Remembered(msgspec.Struct, frozen=True):
    """`node`: this node's name."""

    node: str
    nodes: tuple[Node, ...]


NOTHING = Remembered("", ())


def keep(file: Path, node: str, nodes: Iterable[Node], prefix: str) -> None:
    """In one step; what cannot be written is said and no more: it is a help, not a need."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.json.encode(Remembered(node, tuple(_essence(one, prefix) for one in nodes))))
        fresh.replace(file)
    except OSError as error:
        log.warning("cannot keep what the Nodes say in %s: %s", file, error.strerror)


def recall(file: Path) -> tuple[Remembered, float]:
    """And how many seconds ago it was kept; NOTHING where there is no readable file."""
    try:
        with file.open("rb") as open_file:
            age = max(time.time() - os.fstat(open_file.fileno()).st_mtime, 0.0)
            return decoded(open_file.read(), Remembered), age
    except FileNotFoundError:
        return NOTHING, 0.0
    except (OSError, msgspec.DecodeError, UnicodeError) as error:
        log.warning("cannot read what the Nodes said in %s: %s", file, error)
        return NOTHING, 0.0


def remove(file: Path) -> bool:
    """Whether there was one."""
    file.with_name(f".{file.name}.new").unlink(missing_ok=True)
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True


def _essence(node: Node, prefix: str) -> Node:
    """Without a resourceVersion: whatever the API server says later is newer."""
    about = node.metadata
    return Node(
        metadata=ObjectMeta(
            name=about.name,
            uid=about.uid,
            annotations={key: value for key, value in about.annotations.items() if key.startswith(prefix)},
            creation_timestamp=about.creation_timestamp,
            deletion_timestamp=about.deletion_timestamp,
        ),
        spec=NodeSpec(pod_cidr=node.spec.pod_cidr, pod_cidrs=node.spec.pod_cidrs),
        status=NodeStatus(
            addresses=node.status.addresses,
            conditions=tuple(one for one in node.status.conditions if one.type == annotations.CONDITION),
        ),
    )
