"""metrics.k8s.io/v1beta1, what `kubectl top` and autoscalers read: computed here when asked for, no extra server.

    request ──> the nodes it is about ──> two points of each kubelet's /metrics/resource ──> CPU over the time between them
    `group`                               `samples`                                          `points`

(Upstream: sigs.k8s.io/metrics-server.)
"""

from apiserver.usage.group import UsageApi
from apiserver.usage.samples import Samples, fetching

__all__ = ["Samples", "UsageApi", "fetching"]
