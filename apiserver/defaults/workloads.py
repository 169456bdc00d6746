"""Defaults of what keeps pods alive: Deployments, Jobs and their like, and of what scales them.

After pkg/apis/{apps,batch,autoscaling}/v*/defaults.go. A Job's selector is not a default: it names the Job by its UID, and
is made when the Job is (`new_job`, upstream's `generateSelector`).
"""

from typing import Any, Final

from apiserver.defaults.rules import Default, Defaults

Json = dict[str, Any]

_OWN_LABELS: Final = (
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
)
_ALL: Final = 2**31 - 1
_CPU: Final = 80


def _deployment_strategy(strategy: Json) -> None:
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")


def _daemon_strategy(strategy: Json) -> None:
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)


def _stateful_strategy(strategy: Json) -> None:
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)


def _claims(spec: Json) -> None:
    """Claims in a StatefulSet look like claims, down to the phase they begin in."""
    for claim in spec.get("volumeClaimTemplates", ()):
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        claim.setdefault("status", {}).setdefault("phase", "Pending")


def controller(obj: Json) -> None:
    """A ReplicationController takes selector and labels from its template."""
    spec = obj["spec"]
    labels = spec.get("template", {}).get("metadata", {}).get("labels")
    if labels:
        spec.setdefault("selector", dict(labels))
        obj.setdefault("metadata", {}).setdefault("labels", dict(labels))


def job(obj: Json) -> None:
    spec = obj["spec"]
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = spec["parallelism"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", _ALL if "backoffLimitPerIndex" in spec else 6)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    spec.setdefault("podReplacementPolicy", "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed")
    labels = spec.get("template", {}).get("metadata", {}).get("labels")
    if labels:
        obj.setdefault("metadata", {}).setdefault("labels", dict(labels))


def new_job(obj: Json) -> None:
    """Unless its author selects pods by hand, a Job's pods are those with its UID."""
    spec, metadata = obj["spec"], obj["metadata"]
    if spec.get("manualSelector"):
        return
    template = spec.setdefault("template", {}).setdefault("metadata", {})
    labels = template.setdefault("labels", {})
    for key in _OWN_LABELS:
        labels.setdefault(key, metadata.get("name", "") if key.endswith("job-name") else metadata["uid"])
    spec.setdefault("selector", {}).setdefault("matchLabels", {}).setdefault(_OWN_LABELS[0], metadata["uid"])
    metadata.setdefault("labels", dict(labels))


def autoscaler(obj: Json) -> None:
    spec = obj["spec"]
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": _CPU}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    if "behavior" in spec:
        behavior = spec["behavior"]
        _scaling(behavior, "scaleUp", [("Pods", 4), ("Percent", 100)])
        behavior["scaleUp"].setdefault("stabilizationWindowSeconds", 0)
        _scaling(behavior, "scaleDown", [("Percent", 100)])


def _scaling(behavior: Json, direction: str, policies: list[tuple[str, int]]) -> None:
    rules = behavior.setdefault(direction, {})
    rules.setdefault("selectPolicy", "Max")
    if not rules.get("policies"):
        rules["policies"] = [{"type": kind, "value": value, "periodSeconds": 15} for kind, value in policies]


_REPLICAS: Final = {"replicas": 1}
DEFAULTS: Final[Defaults] = {
    "apps.v1.Deployment": Default(structs=("spec",)),
    "apps.v1.DeploymentSpec": Default(
        _REPLICAS | {"revisionHistoryLimit": 10, "progressDeadlineSeconds": 600}, ("template", "strategy")
    ),
    "apps.v1.DeploymentStrategy": Default(setters=(_deployment_strategy,)),
    "apps.v1.ReplicaSet": Default(structs=("spec",)),
    "apps.v1.ReplicaSetSpec": Default(_REPLICAS, ("template",)),
    "apps.v1.StatefulSet": Default(structs=("spec",)),
    "apps.v1.StatefulSetSpec": Default(
        _REPLICAS | {"podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10},
        ("template", "updateStrategy", "persistentVolumeClaimRetentionPolicy"),
        (_claims,),
    ),
    "apps.v1.StatefulSetUpdateStrategy": Default(setters=(_stateful_strategy,)),
    "apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy": Default(
        {"whenDeleted": "Retain", "whenScaled": "Retain"}
    ),
    "apps.v1.DaemonSet": Default(structs=("spec",)),
    "apps.v1.DaemonSetSpec": Default({"revisionHistoryLimit": 10}, ("template", "updateStrategy")),
    "apps.v1.DaemonSetUpdateStrategy": Default(setters=(_daemon_strategy,)),
    "core.v1.ReplicationController": Default(structs=("spec",), setters=(controller,)),
    "core.v1.ReplicationControllerSpec": Default(_REPLICAS),
    "batch.v1.Job": Default(structs=("spec",), setters=(job,)),
    "batch.v1.JobSpec": Default(structs=("template",)),
    "batch.v1.PodFailurePolicyOnPodConditionsPattern": Default({"status": "True"}),
    "batch.v1.CronJob": Default(structs=("spec",)),
    "batch.v1.CronJobSpec": Default(
        {
            "concurrencyPolicy": "Allow",
            "suspend": False,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
        },
        ("jobTemplate",),
    ),
    "batch.v1.JobTemplateSpec": Default(structs=("spec",)),
    "autoscaling.v2.HorizontalPodAutoscaler": Default(structs=("spec",), setters=(autoscaler,)),
    "autoscaling.v2.HorizontalPodAutoscalerSpec": Default({"minReplicas": 1}),
    "autoscaling.v1.HorizontalPodAutoscaler": Default(structs=("spec",)),
    "autoscaling.v1.HorizontalPodAutoscalerSpec": Default({"minReplicas": 1}),
}
