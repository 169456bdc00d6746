"""Keys in any case. Go's JSON decoder takes them so, and runtimes written in Go count on it: containerd spells what it tells of
a pod ``HostPort`` and ``IngressRate``, where the conventions have ``hostPort`` and ``ingressRate``."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.codec import Json


def spelt(said: Mapping[str, Json], *keys: str) -> dict[str, Json]:
    """The values of these keys, spelt as here. A key that is there as it should be wins over other spellings."""
    folded = {key.lower(): value for key, value in said.items()}
    return {
        key: said[key] if key in said else folded[key.lower()] for key in keys if key in said or key.lower() in folded
    }
