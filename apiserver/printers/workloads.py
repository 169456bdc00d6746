"""Deployments, StatefulSets, DaemonSets, Jobs and what else keeps pods alive, as rows; and what limits or scales them."""

from datetime import datetime
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import (
    AGE,
    CONTAINERS,
    NAME,
    TEMPLATE,
    Column,
    Json,
    Printer,
    Printers,
    boolean,
    columns,
    number,
)

_SHOWN_METRICS: Final = 2


def _pod_spec(obj: Json) -> Json:
    found: Json = obj.get("spec", {}).get("template", {}).get("spec", {})
    return found


def deployment(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    return [
        text.name(obj),
        f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 0)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        text.age(obj, now),
        *text.containers(_pod_spec(obj)),
        text.selector(spec.get("selector")),
    ]


def replica_set(obj: Json, now: datetime) -> list[Any]:
    selector = obj.get("spec", {}).get("selector")
    return [*_replicas(obj, now), *text.containers(_pod_spec(obj)), text.selector(selector)]


def replication_controller(obj: Json, now: datetime) -> list[Any]:
    selector = obj.get("spec", {}).get("selector", {})
    return [*_replicas(obj, now), *text.containers(_pod_spec(obj)), text.labels(selector)]


def _replicas(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    counts = (spec.get("replicas", 0), status.get("replicas", 0), status.get("readyReplicas", 0))
    return [text.name(obj), *counts, text.age(obj, now)]


def stateful_set(obj: Json, now: datetime) -> list[Any]:
    ready = f"{obj.get('status', {}).get('readyReplicas', 0)}/{obj.get('spec', {}).get('replicas', 0)}"
    return [text.name(obj), ready, text.age(obj, now), *text.containers(_pod_spec(obj))]


def daemon_set(obj: Json, now: datetime) -> list[Any]:
    status, pod = obj.get("status", {}), _pod_spec(obj)
    return [
        text.name(obj),
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        text.labels(pod.get("nodeSelector", {})),
        text.age(obj, now),
        *text.containers(pod),
        text.selector(obj.get("spec", {}).get("selector")),
    ]


def controller_revision(obj: Json, now: datetime) -> list[Any]:
    owners = obj.get("metadata", {}).get("ownerReferences", ())
    owner: Json | None = next((one for one in owners if one.get("controller")), None)
    shown = text.NONE
    if owner:
        group = owner.get("apiVersion", "").rpartition("/")[0]
        kind = f"{owner.get('kind', '')}.{group}" if group else owner.get("kind", "")
        shown = f"{kind.lower()}/{owner.get('name', '')}"
    return [text.name(obj), shown, obj.get("revision", 0), text.age(obj, now)]


def job(obj: Json, now: datetime) -> list[Any]:
    return [
        text.name(obj),
        _job_status(obj),
        _completions(obj),
        _job_duration(obj.get("status", {}), now),
        text.age(obj, now),
        *text.containers(_pod_spec(obj)),
        text.selector(obj.get("spec", {}).get("selector")),
    ]


def _job_status(obj: Json) -> str:
    for condition, word in (("Complete", "Complete"), ("Failed", "Failed")):
        if text.condition(obj, condition) == "True":
            return word
    if text.deleted(obj):
        return "Terminating"
    for condition in ("Suspended", "FailureTarget"):
        if text.condition(obj, condition) == "True":
            return condition
    return "Running"


def _completions(obj: Json) -> str:
    spec, done = obj.get("spec", {}), obj.get("status", {}).get("succeeded", 0)
    if "completions" in spec:
        return f"{done}/{spec['completions']}"
    parallelism = spec.get("parallelism", 0)
    return f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"


def _job_duration(status: Json, now: datetime) -> str:
    if "startTime" not in status:
        return ""
    end = text.moment(status["completionTime"]) if "completionTime" in status else now
    return text.human(end - text.moment(status["startTime"]))


def cron_job(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    job_spec = spec.get("jobTemplate", {}).get("spec", {})
    suspend = spec.get("suspend")
    return [
        text.name(obj),
        spec.get("schedule", ""),
        spec.get("timeZone", text.NONE),
        text.UNSET if suspend is None else str(suspend).capitalize(),
        len(status.get("active", ())),
        text.since(status["lastScheduleTime"], now) if status.get("lastScheduleTime") else text.NONE,
        text.age(obj, now),
        *text.containers(job_spec.get("template", {}).get("spec", {})),
        text.selector(job_spec.get("selector")),
    ]


def disruption_budget(obj: Json, now: datetime) -> list[Any]:
    spec = obj.get("spec", {})
    bounds = (str(spec.get(field, "N/A")) for field in ("minAvailable", "maxUnavailable"))
    return [text.name(obj), *bounds, obj.get("status", {}).get("disruptionsAllowed", 0), text.age(obj, now)]


def scale(obj: Json, now: datetime) -> list[Any]:
    desired, available = obj.get("spec", {}).get("replicas", 0), obj.get("status", {}).get("replicas", 0)
    return [text.name(obj), desired, available, text.age(obj, now)]


def autoscaler(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    target = spec.get("scaleTargetRef", {})
    return [
        text.name(obj),
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _targets(spec, status),
        str(spec["minReplicas"]) if "minReplicas" in spec else text.UNSET,
        spec.get("maxReplicas", 0),
        status.get("currentReplicas", 0),
        text.age(obj, now),
    ]


def _targets(spec: Json, status: Json) -> str:
    """`current/target` of each metric; version 1 knows only the utilization of cpu."""
    if "targetCPUUtilizationPercentage" in spec:
        current = status.get("currentCPUUtilizationPercentage")
        shown = text.UNKNOWN if current is None else f"{current}%"
        return f"cpu: {shown}/{spec['targetCPUUtilizationPercentage']}%"
    wanted, seen = spec.get("metrics", []), status.get("currentMetrics") or []
    found = [_metric(one, seen[index] if index < len(seen) else {}) for index, one in enumerate(wanted)]
    return text.cut(found, _SHOWN_METRICS, ", ") or text.NONE


_SOURCES: Final = {"External": "external", "Pods": "pods", "Object": "object",
                   "Resource": "resource", "ContainerResource": "containerResource"}  # fmt: skip


def _metric(spec: Json, status: Json) -> str:
    key = _SOURCES.get(spec.get("type", ""))
    if key is None:
        return "<unknown type>"
    source, target = spec.get(key, {}), spec.get(key, {}).get("target", {})
    current = status.get(key, {}).get("current", {})
    match key:
        case "resource" | "containerResource":
            name = source.get("name", "")
            if "averageValue" in target:
                return f"{name}: {current.get('averageValue', text.UNKNOWN)}/{target['averageValue']}"
            used, wanted = current.get("averageUtilization"), target.get("averageUtilization")
            shown = text.UNKNOWN if used is None else f"{used}%"
            return f"{name}: {shown}/{'<auto>' if wanted is None else f'{wanted}%'}"
        case "pods":
            return f"{current.get('averageValue', text.UNKNOWN)}/{target.get('averageValue', '')}"
        case _ if "averageValue" in target:
            return f"{current.get('averageValue', text.UNKNOWN)}/{target['averageValue']} (avg)"
        case _:
            return f"{current.get('value', text.UNKNOWN)}/{target.get('value', '')}"


_COUNTS: Final = (
    number("Desired", "Replicas wanted."),
    number("Current", "Replicas there are."),
    number("Ready", "Replicas that are ready."),
)
_READY: Final = Column("Ready", "Replicas that are ready, of how many.")

PRINTERS: Final[Printers] = {
    ("apps", "Deployment"): Printer(
        columns(
            _READY,
            Column("Up-to-date", "Replicas of the newest template."),
            Column("Available", "Replicas that have been ready long enough."),
            after=TEMPLATE,
        ),
        deployment,
    ),
    ("apps", "ReplicaSet"): Printer(columns(*_COUNTS, after=TEMPLATE), replica_set),
    ("", "ReplicationController"): Printer(columns(*_COUNTS, after=TEMPLATE), replication_controller),
    ("apps", "StatefulSet"): Printer(columns(_READY, after=CONTAINERS), stateful_set),
    ("apps", "DaemonSet"): Printer(
        columns(
            number("Desired", "Nodes that should run it."),
            number("Current", "Nodes that run it."),
            number("Ready", "Nodes where it is ready."),
            number("Up-to-date", "Nodes with the newest template."),
            number("Available", "Nodes where it has been ready long enough."),
            Column("Node Selector", "Labels of the nodes that run it."),
            after=TEMPLATE,
        ),
        daemon_set,
    ),
    ("apps", "ControllerRevision"): Printer(
        columns(Column("Controller", "Whose revision it is."), Column("Revision", "Its number.")), controller_revision
    ),
    ("batch", "Job"): Printer(
        columns(
            Column("Status", "What the job is doing."),
            Column("Completions", "Pods that succeeded, of how many."),
            Column("Duration", "How long it has run."),
            after=TEMPLATE,
        ),
        job,
    ),
    ("batch", "CronJob"): Printer(
        (
            NAME,
            Column("Schedule", "When it runs."),
            Column("Timezone", "Time zone of the schedule."),
            boolean("Suspend", "Whether it makes no new jobs."),
            number("Active", "Jobs that run now."),
            Column("Last Schedule", "Time since it last made a job."),
            AGE,
            *TEMPLATE,
        ),
        cron_job,
    ),
    ("policy", "PodDisruptionBudget"): Printer(
        columns(
            Column("Min Available", "Pods that must stay."),
            Column("Max Unavailable", "Pods that may go."),
            number("Allowed Disruptions", "Pods that may go now."),
        ),
        disruption_budget,
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): Printer(
        columns(
            Column("Reference", "What it scales."),
            Column("Targets", "Metrics, as they are and as they should be."),
            Column("MinPods", "Fewest replicas."),
            Column("MaxPods", "Most replicas."),
            Column("Replicas", "Replicas there are."),
        ),
        autoscaler,
    ),
    ("autoscaling", "Scale"): Printer(
        (
            Column("Name", "Name of what is scaled."),
            number("Desired", "Replicas wanted."),
            number("Available", "Replicas there are."),
            AGE,
        ),
        scale,
    ),
}
