"""Deployments, ReplicaSets, StatefulSets, DaemonSets and their like (pkg/apis/apps/validation/validation.go)."""

from typing import Any, Final

import msgspec

from apiserver.validation import names
from apiserver.validation.rules import TOP, Check, Found, Json, Path, Rule, Rules, at_least, one_of
from kube.meta import LabelSelector
from kube.selectors import from_label_selector

_SPEC: Final[Path] = (TOP, "spec")
_STATEFUL_FIELDS: Final = ("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
                           "persistentVolumeClaimRetentionPolicy", "minReadySeconds")  # fmt: skip
_STATEFUL_FIXED: Final = (
    "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', "
    "'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
)


def matches(selector: Json, labels: dict[str, str]) -> bool:
    try:
        return from_label_selector(msgspec.convert(selector, LabelSelector)).matches(labels)
    except msgspec.ValidationError:
        return True  # an operator that is none has been reported already


def owner_spec(noun: str) -> Check:
    """A selector there is, that means something and finds the pods of the template."""

    def check(spec: Json, path: Path, found: Found) -> None:
        selector = spec.get("selector")
        if selector is None:
            found.required((path, "selector"))
        elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
            found.invalid((path, "selector"), selector, f"empty selector is invalid for {noun}")
        else:
            labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
            if not matches(selector, labels):
                here = (((path, "template"), "metadata"), "labels")
                found.invalid(here, labels, "`selector` does not match template `labels`")
        always_running(spec.get("template", {}), (path, "template"), noun, found)

    return check


def always_running(template: Json, path: Path, noun: str, found: Found) -> None:
    spec, here = template.get("spec", {}), (path, "spec")
    if spec.get("restartPolicy") in {"Never", "OnFailure"}:
        found.unsupported((here, "restartPolicy"), spec["restartPolicy"], ("Always",))
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is None:
        return
    if noun == "daemonset":
        found.invalid((here, "activeDeadlineSeconds"), deadline, "must not be specified")
    else:
        owner = "StatefulSet" if noun == "statefulset" else "ReplicaSet"
        found.forbidden((here, "activeDeadlineSeconds"), f"activeDeadlineSeconds in {owner} is not Supported")


def selector_update(new: Json, old: Json, found: Found) -> None:
    """Once made, an owner keeps looking for the same pods."""
    selector = new.get("spec", {}).get("selector", {})
    if selector != old.get("spec", {}).get("selector", {}):
        found.invalid((_SPEC, "selector"), selector, names.IMMUTABLE)


def claim_names(obj: Json) -> frozenset[str]:
    """Each pod of a StatefulSet has a volume for each claim, under the claim's name."""
    claims = obj.get("spec", {}).get("volumeClaimTemplates", ())
    return frozenset(one.get("metadata", {}).get("name", "") for one in claims)


def stateful_update(new: Json, old: Json, found: Found) -> None:
    after, before = _with_plain_claims(new["spec"]), _with_plain_claims(old["spec"])
    if any(after.get(key) != before.get(key) for key in after.keys() | before.keys() if key not in _STATEFUL_FIELDS):
        found.forbidden(_SPEC, _STATEFUL_FIXED)


def _with_plain_claims(spec: Json) -> Json:
    """What a claim template says, without what is filled in of it."""
    claims = spec.get("volumeClaimTemplates")
    if not claims:
        return spec
    return spec | {"volumeClaimTemplates": [(one.get("metadata"), one.get("spec")) for one in claims]}


def revision_update(new: Json, old: Json, found: Found) -> None:
    if new.get("data") != old.get("data"):
        found.invalid((TOP, "data"), new.get("data"), names.IMMUTABLE)


def _deadline(spec: Json, path: Path, found: Found) -> None:
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None and deadline <= spec.get("minReadySeconds", 0):
        found.invalid((path, "progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds")


def _deployment_strategy(one: Json, path: Path, found: Found) -> None:
    if one.get("type") == "Recreate" and "rollingUpdate" in one:
        found.forbidden((path, "rollingUpdate"), "may not be specified when strategy `type` is 'Recreate'")


def whole_or_percent(value: Any, path: Path, found: Found) -> None:
    if isinstance(value, str):
        for text in names.percent(value):
            found.invalid(path, value, text)
    elif value < 0:
        found.invalid(path, value, names.NEGATIVE)


def _at_most_all(value: Any, path: Path, found: Found) -> None:
    whole_or_percent(value, path, found)
    if isinstance(value, str) and not names.percent(value) and int(value[:-1]) > 100:
        found.invalid(path, value, "must not be greater than 100%")


def _rolling(one: Json, path: Path, found: Found) -> None:
    unavailable = one.get("maxUnavailable", 0)
    if unavailable in (0, "0%") and one.get("maxSurge", 0) in (0, "0%"):
        found.invalid((path, "maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0")


def _daemon_rolling(one: Json, path: Path, found: Found) -> None:
    unavailable, surge = one.get("maxUnavailable", 0), one.get("maxSurge", 0)
    none = (0, "0%")
    if unavailable not in none and surge not in none:
        found.invalid((path, "maxSurge"), surge, "may not be set when maxUnavailable is non-zero")
    elif unavailable in none and surge in none:
        found.required((path, "maxUnavailable"), "cannot be 0 when maxSurge is 0")


def _stateful_strategy(one: Json, path: Path, found: Found) -> None:
    if one.get("type") == "OnDelete" and "rollingUpdate" in one:
        detail = "only allowed for updateStrategy 'RollingUpdate'"
        found.invalid((path, "rollingUpdate"), one["rollingUpdate"], detail)


def _stateful_rolling(one: Json, path: Path, found: Found) -> None:
    if one.get("maxUnavailable") in (0, "0%"):
        found.invalid((path, "maxUnavailable"), one["maxUnavailable"], "cannot be 0")


def controller(spec: Json, path: Path, found: Found) -> None:
    """A ReplicationController selects by equality only."""
    selector, template = spec.get("selector", {}), spec.get("template")
    if not selector:
        found.required((path, "selector"))
    if template is None:
        found.required((path, "template"))
        return
    labels = template.get("metadata", {}).get("labels", {})
    if selector and any(labels.get(key) != value for key, value in selector.items()):
        here = (((path, "template"), "metadata"), "labels")
        found.invalid(here, labels, "`selector` does not match template `labels`")
    always_running(template, (path, "template"), "replicationcontroller", found)


def _revision(obj: Json, path: Path, found: Found) -> None:
    if obj.get("data") is None:
        found.required((path, "data"), "data is mandatory")


_COUNTS: Final[dict[str, Check]] = {
    "replicas": at_least(0),
    "minReadySeconds": at_least(0),
    "revisionHistoryLimit": at_least(0),
}
_STATUS_COUNTS: Final[dict[str, Check]] = {
    name: at_least(0) for name in ("replicas", "readyReplicas", "availableReplicas")
}
_RETENTION: Final = one_of("Delete", "Retain")
RULES: Final[Rules] = {
    "apps.v1.Deployment": Rule(required=("spec",)),
    "apps.v1.DeploymentSpec": Rule(_COUNTS, checks=(owner_spec("deployment"), _deadline)),
    "apps.v1.DeploymentStrategy": Rule({"type": one_of("Recreate", "RollingUpdate")}, checks=(_deployment_strategy,)),
    "apps.v1.RollingUpdateDeployment": Rule(
        {"maxUnavailable": _at_most_all, "maxSurge": whole_or_percent}, checks=(_rolling,)
    ),
    "apps.v1.DeploymentStatus": Rule(
        _STATUS_COUNTS
        | {"updatedReplicas": at_least(0), "unavailableReplicas": at_least(0), "observedGeneration": at_least(0)}
    ),
    "apps.v1.ReplicaSet": Rule(required=("spec",)),
    "apps.v1.ReplicaSetSpec": Rule(
        {"replicas": at_least(0), "minReadySeconds": at_least(0)}, checks=(owner_spec("deployment"),)
    ),
    "apps.v1.ReplicaSetStatus": Rule(
        _STATUS_COUNTS | {"fullyLabeledReplicas": at_least(0), "observedGeneration": at_least(0)}
    ),
    "apps.v1.StatefulSet": Rule(required=("spec",)),
    "apps.v1.StatefulSetSpec": Rule(
        _COUNTS | {"podManagementPolicy": one_of("OrderedReady", "Parallel")},
        ("podManagementPolicy",),
        (owner_spec("statefulset"),),
    ),
    "apps.v1.StatefulSetUpdateStrategy": Rule(
        {"type": one_of("OnDelete", "RollingUpdate")}, ("type",), (_stateful_strategy,)
    ),
    "apps.v1.RollingUpdateStatefulSetStrategy": Rule(
        {"partition": at_least(0), "maxUnavailable": _at_most_all}, checks=(_stateful_rolling,)
    ),
    "apps.v1.StatefulSetOrdinals": Rule({"start": at_least(0)}),
    "apps.v1.StatefulSetPersistentVolumeClaimRetentionPolicy": Rule(
        {"whenDeleted": _RETENTION, "whenScaled": _RETENTION}
    ),
    "apps.v1.StatefulSetStatus": Rule(_STATUS_COUNTS),
    "apps.v1.DaemonSet": Rule(required=("spec",)),
    "apps.v1.DaemonSetSpec": Rule(
        {"minReadySeconds": at_least(0), "revisionHistoryLimit": at_least(0)}, checks=(owner_spec("daemonset"),)
    ),
    "apps.v1.DaemonSetUpdateStrategy": Rule({"type": one_of("OnDelete", "RollingUpdate")}),
    "apps.v1.RollingUpdateDaemonSet": Rule(
        {"maxUnavailable": _at_most_all, "maxSurge": _at_most_all}, checks=(_daemon_rolling,)
    ),
    "apps.v1.ControllerRevision": Rule({"revision": at_least(0)}, checks=(_revision,)),
    "core.v1.ReplicationController": Rule(required=("spec",)),
    "core.v1.ReplicationControllerSpec": Rule(
        {"replicas": at_least(0), "minReadySeconds": at_least(0)}, checks=(controller,)
    ),
    "autoscaling.v1.ScaleSpec": Rule({"replicas": at_least(0)}),
}
