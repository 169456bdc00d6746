"""The figures of flow control, tokens and audit, under upstream's names; counted when asked for."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from apiserver.audit.events import Audit
from apiserver.authentication.tokens import Tokens
from apiserver.flow import Flow

_PREFIX = "apiserver_flowcontrol_"
_LABELS = ["priority_level", "flow_schema"]
_SCHEMA = "global-default"


class AccessFigures(Collector):
    def __init__(self, flow: Flow, tokens: Tokens, audit: Audit | None) -> None:
        self._flow = flow
        self._tokens = tokens
        self._audit = audit

    def collect(self) -> Iterable[Metric]:
        yield from self._requests()
        for name, help_text, count in (
            ("valid", "Uses of ServiceAccount tokens.", self._tokens.valid),
            (
                "stale",
                "Uses of tokens beyond their asked time, by clients that do not read them again.",
                self._tokens.stale,
            ),
        ):
            yield CounterMetricFamily(f"serviceaccount_{name}_tokens_total", help_text, count)
        if self._audit is not None:
            log = self._audit.log
            yield CounterMetricFamily("apiserver_audit_event_total", "Audit events written.", log.written)
            errors = CounterMetricFamily(
                "apiserver_audit_error_total", "Audit events lost.", labels=["plugin", "reason"]
            )
            errors.add_metric(["log", "queue-full"], log.lost)
            errors.add_metric(["log", "write"], log.failed)
            yield errors

    def _requests(self) -> Iterable[Metric]:
        inflight = GaugeMetricFamily(
            "apiserver_current_inflight_requests", "Requests running now, but for exempt ones.", labels=["request_kind"]
        )
        executing = GaugeMetricFamily(
            f"{_PREFIX}current_executing_requests", "Requests that have a turn.", labels=_LABELS
        )
        queued = GaugeMetricFamily(f"{_PREFIX}current_inqueue_requests", "Requests that wait for one.", labels=_LABELS)
        seats = GaugeMetricFamily(f"{_PREFIX}current_executing_seats", "Turns taken.", labels=_LABELS)
        limits = GaugeMetricFamily(f"{_PREFIX}nominal_limit_seats", "Turns there are.", labels=["priority_level"])
        dispatched = CounterMetricFamily(
            f"{_PREFIX}dispatched_requests_total", "Requests that got a turn.", labels=_LABELS
        )
        rejected = CounterMetricFamily(
            f"{_PREFIX}rejected_requests_total", "Requests refused with 429.", labels=[*_LABELS, "reason"]
        )
        waits = SummaryMetricFamily(
            f"{_PREFIX}request_wait_duration_seconds", "Waits for a turn, of those who had to.", labels=_LABELS
        )
        for level in (self._flow.reading, self._flow.writing):
            labels = [level.name, _SCHEMA]
            inflight.add_metric([level.name], level.running)
            executing.add_metric(labels, level.running)
            queued.add_metric(labels, level.waiting)
            seats.add_metric(labels, level.taken)
            limits.add_metric([level.name], level.turns)
            dispatched.add_metric(labels, level.dispatched)
            waits.add_metric(labels, int(level.waited[1]), level.waited[0])
            for reason, count in level.rejected.items():
                rejected.add_metric([*labels, reason], count)
        return [inflight, executing, queued, seats, limits, dispatched, rejected, waits]
