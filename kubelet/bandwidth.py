"""How fast a pod may receive and send: its annotations kubernetes.io/ingress-bandwidth and egress-bandwidth, bits a second.

They become the CNI capability `bandwidth`. Each rate has a burst, what may pass at once: a tenth of a second's worth, and no less
than a mebibit, so that a packet of the kernel's largest size fits. (dockershim and containerd ask for bursts of 2^31 and 2^32
bits; there the first quarter or half of a gigabyte of each pause passes unlimited.)

Upstream: pkg/util/bandwidth/utils.go. A runtime that calls CNI itself reads the annotations itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from kube import quantity

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
_LEAST, _MOST = 1_000, 1_000_000_000_000_000
_LEAST_BURST = 1 << 20


def bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    """The capability's value, {} for a pod without limits. ValueError in upstream's words when a limit makes no sense."""
    asked: dict[str, int] = {}
    for annotation, way in ((INGRESS, "ingress"), (EGRESS, "egress")):
        text = annotations.get(annotation)
        if text is None:
            continue
        try:
            rate = quantity.integer(text)
        except ValueError as error:
            raise ValueError(f"annotation {annotation}: {text!r}: {error}") from None
        if rate < _LEAST:
            raise ValueError(f"annotation {annotation}: {text!r}: resource is unreasonably small (< 1kbit)")
        if rate > _MOST:
            raise ValueError(f"annotation {annotation}: {text!r}: resource is unreasonably large (> 1Pbit)")
        asked |= {f"{way}Rate": rate, f"{way}Burst": max(rate // 10, _LEAST_BURST)}
    return asked
