"""The daemon's own metrics. flannel has none."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from overlay.drift import OBJECTS


class Series:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.peers = Gauge("wherry_overlay_peers", "Nodes that this one can reach", registry=registry)
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
        for name in (*OBJECTS, "rules"):
            self.drift.labels(name)
        self.last_sync = Gauge(
            "wherry_overlay_last_sync_timestamp_seconds",
            "When device and entries were last found or made right",
            registry=registry,
        )
        self.duration = Histogram(
            "wherry_overlay_sync_duration_seconds",
            "How long a pass over device and entries took",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        self.failures = Counter(
            "wherry_overlay_sync_failures", "Passes that did not come to their end", ["loop"], registry=registry
        )
