"""The daemon's own metrics. flannel has none.

A drift is counted by the kind of what somebody else had changed: what hangs on the devices (`overlay.drift.OBJECTS`), and
rules, sysctls, subnet.env, the underlay's address, our own announcement.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from linux.iptables.rules import Family
from overlay.drift import OBJECTS

BEYOND = ("rules", "sysctl", "subnetenv", "underlay", "lease")
"""Objects of drift that no plan is about."""


def label(family: Family) -> str:
    return f"IPv{int(family)}"


class Series:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.info = Gauge(
            "wherry_overlay_info",
            "Always 1; what the overlay is made of",
            ["backend", "registry", "rules"],
            registry=registry,
        )
        self.peers = Gauge("wherry_overlay_peers", "Nodes that this one can reach", ["ip_family"], registry=registry)
        self.entries = Gauge(
            "wherry_overlay_entries",
            "What the last complete pass found or made right in the kernel",
            ["ip_family", "object"],
            registry=registry,
        )
        self.refused = Gauge(
            "wherry_overlay_refused_nodes",
            "Nodes whose claims are unreadable or contradict another's",
            registry=registry,
        )
        self.drift = Counter(
            "wherry_overlay_drift_repaired",
            "What somebody else had changed or removed, put right again",
            ["object"],
            registry=registry,
        )
        for name in (*OBJECTS, *BEYOND):
            self.drift.labels(name)
        self.lost = Counter(
            "wherry_overlay_events_lost",
            "Times that the kernel had more to announce than could be read (ENOBUFS); everything is compared then",
            registry=registry,
        )
        self.last_sync = Gauge(
            "wherry_overlay_last_sync_timestamp_seconds",
            "When device and entries were last found or made right",
            ["ip_family"],
            registry=registry,
        )
        self.duration = Histogram(
            "wherry_overlay_sync_duration_seconds",
            "How long a pass over device and entries took",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.failures = Counter(
            "wherry_overlay_sync_failures", "Passes that did not come to their end", ["loop"], registry=registry
        )
        self.announced = Gauge(
            "wherry_overlay_lease_announced_timestamp_seconds",
            "When this node's claim was last written or renewed in the registry",
            registry=registry,
        )
        self.expiry = Gauge(
            "wherry_overlay_lease_expiry_timestamp_seconds",
            "When this node's claim lapses unless it is renewed (etcd); 0: it does not",
            registry=registry,
        )
        self.checksums = Gauge(
            "wherry_overlay_checksum_offload_disabled",
            "1 where the kernel computes the checksums in the tunnel: the network card gets them wrong, or somebody said so",
            ["ip_family"],
            registry=registry,
        )
