"""How the node's probes went, for /metrics/probes, under upstream's names (pkg/kubelet/prober/prober_manager.go).

Counted by hand: with four labels a probe the client library costs more than some probes do. A probe's series end with its
pod, as upstream's do.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RESULTS = {True: "successful", False: "failed", None: "unknown"}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose probe it is; a container that is restarted is the same."""

    kind: str  # Startup | Liveness | Readiness
    container: str
    pod: str
    namespace: str
    uid: str


@dataclass(slots=True)
class Tally:
    results: dict[bool | None, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0


class Tallies(Collector):
    def __init__(self) -> None:
        self._by_pod: dict[str, dict[Subject, Tally]] = {}

    def count(self, subject: Subject, result: bool | None, seconds: float) -> None:
        tally = self._by_pod.setdefault(subject.uid, {}).setdefault(subject, Tally())
        tally.results[result] = tally.results.get(result, 0) + 1
        if result is not False:  # how long a failure took says more of the time limit than of the container
            tally.buckets[bisect_left(BOUNDS, seconds)] += 1
            tally.seconds += seconds

    def forget(self, uid: str) -> None:
        self._by_pod.pop(uid, None)

    def collect(self) -> Iterable[CounterMetricFamily | HistogramMetricFamily]:
        labels = ["probe_type", "container", "pod", "namespace"]
        total = CounterMetricFamily(
            "prober_probe",
            "Cumulative number of a liveness, readiness or startup probe for a container by result.",
            labels=["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
        )
        duration = HistogramMetricFamily(
            "prober_probe_duration_seconds", "Duration in seconds for a probe response.", labels=labels
        )
        for tallies in self._by_pod.values():
            for subject, tally in tallies.items():
                who = [subject.container, subject.pod, subject.namespace]
                for result, count in tally.results.items():
                    total.add_metric([subject.kind, RESULTS[result], *who, subject.uid], count)
                buckets, cumulated = [], 0
                for bound, count in zip((*map(str, BOUNDS), "+Inf"), tally.buckets, strict=True):
                    cumulated += count
                    buckets.append((bound, cumulated))
                duration.add_metric([subject.kind, *who], buckets, tally.seconds)
        return total, duration
