"""Jobs and CronJobs (pkg/apis/batch/validation/validation.go)."""

import json
from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import TOP, Check, Found, Json, Path, Rule, Rules, at_least, at_most, one_of, written
from apiserver.validation.workloads import matches
from kube import cron

_SPEC: Final[Path] = (TOP, "spec")
_HUNDRED_THOUSAND: Final = 100_000
_HIGH_COMPLETIONS: Final = 100_000
_HIGH_PARALLELISM: Final = 10_000
_LABELS: Final = ("controller-uid", "job-name", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name")
_ACTIONS: Final = ("Count", "FailIndex", "FailJob", "Ignore")
_RETRY: Final = ("OnFailure", "Never")
_SCHEDULE_MUTABLE: Final = ("nodeSelector", "tolerations", "schedulingGates")


def job(obj: Json, path: Path, found: Found) -> None:
    """The selector is there (the server makes it), finds the template's pods, and is this Job's own."""
    spec, here = obj.get("spec", {}), (path, "spec")
    selector = spec.get("selector")
    template = ((here, "template"), "metadata")
    labels = spec.get("template", {}).get("metadata", {}).get("labels", {})
    if selector is None:
        found.required((here, "selector"))
    elif not matches(selector, labels):
        found.invalid((template, "labels"), labels, "`selector` does not match template `labels`")
    metadata = obj.get("metadata", {})
    if selector is not None and not spec.get("manualSelector"):
        expected = dict(zip(_LABELS, (metadata.get("uid", ""), metadata.get("name", "")) * 2, strict=True))
        for key, value in expected.items():
            if key not in labels:
                found.required(((template, "labels"), f"[{key}]"), f"must be '{value}'")
            elif labels[key] != value:
                found.invalid(((template, "labels"), f"[{key}]"), labels, f"must be '{value}'")
        if not matches(selector, expected):
            found.invalid((here, "selector"), selector, "`selector` not auto-generated")
    if spec.get("completionMode") == "Indexed" and spec.get("completions", 0) > 0:
        last = f"{metadata.get('name', '')}-{spec['completions'] - 1}"
        if names.dns_label(last):
            detail = f"will not able to create pod with invalid DNS label: {last}"
            found.invalid(((path, "metadata"), "name"), metadata.get("name", ""), detail)


def job_spec(spec: Json, path: Path, found: Found) -> None:
    if spec.get("completionMode", "NonIndexed") == "Indexed":
        _indexed(spec, path, found)
    else:
        for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
            if field in spec:
                found.invalid((path, field), spec[field], "requires indexed completion mode")
        if "successPolicy" in spec:
            found.invalid((path, "successPolicy"), spec["successPolicy"], "requires indexed completion mode")
    if "maxFailedIndexes" in spec and "backoffLimitPerIndex" not in spec:
        found.required((path, "backoffLimitPerIndex"), "when maxFailedIndexes is specified")
    if "podFailurePolicy" in spec:
        _failure_policy(spec, (path, "podFailurePolicy"), found)
    replacement = spec.get("podReplacementPolicy")
    if replacement is not None:
        allowed = ("Failed",) if "podFailurePolicy" in spec else ("Failed", "TerminatingOrFailed")
        if replacement not in allowed:
            found.unsupported((path, "podReplacementPolicy"), replacement, allowed)
    restart = spec.get("template", {}).get("spec", {}).get("restartPolicy", "Always")
    here = (((path, "template"), "spec"), "restartPolicy")
    if restart == "Always":
        found.required(here, 'valid values: "OnFailure", "Never"')
    elif restart not in _RETRY:
        found.unsupported(here, restart, _RETRY)
    elif "podFailurePolicy" in spec and restart != "Never":
        found.invalid(here, restart, 'only "Never" is supported when podFailurePolicy is specified')


def _indexed(spec: Json, path: Path, found: Found) -> None:
    completions, failed = spec.get("completions"), spec.get("maxFailedIndexes")
    parallelism = spec.get("parallelism", 0)
    if completions is None:
        found.required((path, "completions"), "when completion mode is Indexed")
    if parallelism > _HUNDRED_THOUSAND:
        detail = f"must be less than or equal to {_HUNDRED_THOUSAND} when completion mode is Indexed"
        found.invalid((path, "parallelism"), parallelism, detail)
    if failed is not None:
        if completions is not None and failed > completions:
            found.invalid((path, "maxFailedIndexes"), failed, "must be less than or equal to completions")
        if failed > _HUNDRED_THOUSAND:
            found.invalid((path, "maxFailedIndexes"), failed, f"must be less than or equal to {_HUNDRED_THOUSAND}")
    if (completions or 0) > _HIGH_COMPLETIONS and "backoffLimitPerIndex" in spec:
        if failed is None:
            detail = f"must be specified when completions is above {_HIGH_COMPLETIONS}"
            found.required((path, "maxFailedIndexes"), detail)
        for field, value in (("parallelism", parallelism), ("maxFailedIndexes", failed or 0)):
            if value > _HIGH_PARALLELISM:
                detail = (
                    f"must be less than or equal to {_HIGH_PARALLELISM} when completions are above "
                    f"{_HIGH_COMPLETIONS} and used with backoff limit per index"
                )
                found.invalid((path, field), value, detail)
    if "successPolicy" in spec:
        _success_policy(spec["successPolicy"], (path, "successPolicy"), found)


def _success_policy(policy: Json, path: Path, found: Found) -> None:
    rules = policy.get("rules", ())
    if not rules:
        found.required((path, "rules"), "at least one rules must be specified when the successPolicy is specified")
    if len(rules) > 20:
        found.too_many((path, "rules"), len(rules), 20)
    for index, rule in enumerate(rules):
        if "succeededCount" not in rule and "succeededIndexes" not in rule:
            detail = "at least one of succeededCount or succeededIndexes must be specified"
            found.required(((path, "rules"), index), detail)


def _failure_policy(spec: Json, path: Path, found: Found) -> None:
    pod = spec.get("template", {}).get("spec", {})
    containers = {one.get("name") for field in ("containers", "initContainers") for one in pod.get(field, ())}
    for index, rule in enumerate(spec["podFailurePolicy"].get("rules", ())):
        here = ((path, "rules"), index)
        action, codes, conditions = rule.get("action", ""), rule.get("onExitCodes"), rule.get("onPodConditions")
        if not action:
            listed = " ".join(json.dumps(one) for one in _ACTIONS)
            found.required((here, "action"), f"valid values: [{listed}]")
        elif action not in _ACTIONS:
            found.unsupported((here, "action"), action, _ACTIONS)
        elif action == "FailIndex" and "backoffLimitPerIndex" not in spec:
            found.invalid((here, "action"), action, "requires the backoffLimitPerIndex to be set")
        if codes is not None and conditions:
            found.invalid(here, rule, "specifying both OnExitCodes and OnPodConditions is not supported")
        elif codes is None and not conditions:
            found.invalid(here, rule, "specifying one of OnExitCodes and OnPodConditions is required")
        if codes is not None:
            _exit_codes(codes, (here, "onExitCodes"), containers, found)


def _exit_codes(codes: Json, path: Path, containers: set[Any], found: Found) -> None:
    operator, values = codes.get("operator", ""), codes.get("values", [])
    if not operator:
        found.required((path, "operator"), 'valid values: ["In" "NotIn"]')
    elif operator not in ("In", "NotIn"):
        found.unsupported((path, "operator"), operator, ("In", "NotIn"))
    name = codes.get("containerName")
    if name is not None and name not in containers:
        detail = "must be one of the container or initContainer names in the pod template"
        found.invalid((path, "containerName"), name, detail)
    if not values:
        found.invalid((path, "values"), values, "at least one value is required")
    elif len(values) > 255:
        found.too_many((path, "values"), len(values), 255)
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            found.invalid(((path, "values"), index), value, "must not be 0 for the In operator")
        if value in values[:index]:
            found.duplicate(((path, "values"), index), value)
    if values != sorted(values):
        found.invalid((path, "values"), values, "must be ordered")


def _unstarted(old: Json) -> bool:
    """A suspended Job that has not started may still be told where to run (KEP-2926)."""
    return bool(old.get("spec", {}).get("suspend")) and "startTime" not in old.get("status", {})


def job_update(new: Json, old: Json, found: Found) -> None:
    after, before = new.get("spec", {}), old.get("spec", {})
    for field in (
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ):
        if after.get(field) != before.get(field):
            found.invalid((_SPEC, field), after.get(field), names.IMMUTABLE)
    if after.get("completions") != before.get("completions"):
        elastic = (
            after.get("completionMode") == "Indexed"
            and after.get("completions") == after.get("parallelism")
            and before.get("completions") == before.get("parallelism")
        )
        if not elastic:
            found.invalid((_SPEC, "completions"), after.get("completions"), names.IMMUTABLE)
    template, was = after.get("template", {}), before.get("template", {})
    if template != was and not (_unstarted(old) and _placement_only(template, was)):
        found.invalid((_SPEC, "template"), template, names.IMMUTABLE)


def _placement_only(after: Json, before: Json) -> bool:
    def rest(template: Json) -> Any:
        spec = {key: value for key, value in template.get("spec", {}).items() if key not in _SCHEDULE_MUTABLE}
        affinity = {key: value for key, value in spec.pop("affinity", {}).items() if key != "nodeAffinity"}
        metadata = template.get("metadata", {})
        kept = {key: value for key, value in metadata.items() if key not in ("labels", "annotations")}
        return spec, affinity, kept

    return bool(rest(after) == rest(before))


def cron_job(spec: Json, path: Path, found: Found) -> None:
    schedule, zone = spec.get("schedule", ""), spec.get("timeZone")
    if not schedule:
        found.required((path, "schedule"))
    elif "TZ" in schedule:
        detail = (
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            if zone is None
            else "cannot use both timeZone field and TZ or CRON_TZ in schedule"
        )
        found.invalid((path, "schedule"), schedule, detail)
    else:
        try:
            cron.parse(schedule)
        except cron.CronError as wrong:
            found.invalid((path, "schedule"), schedule, str(wrong))
    if zone is not None:
        _zone(zone, (path, "timeZone"), found)
    job = spec.get("jobTemplate", {}).get("spec", {})
    here = ((path, "jobTemplate"), "spec")
    if job.get("manualSelector"):
        found.unsupported((here, "manualSelector"), True, ("false", "nil"))
    if "selector" in job:
        found.invalid((here, "selector"), job["selector"], "`selector` will be auto-generated")


def _zone(zone: str, path: Path, found: Found) -> None:
    if not zone:
        found.invalid(path, zone, "timeZone must be nil or non-empty string")
    elif zone.lower() == "local":
        detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
        found.invalid(path, zone, detail)
    elif not cron.known_zone(zone):
        found.invalid(path, zone, f"unknown time zone {zone}")


_NUMBERS: Final[dict[str, Check]] = {
    name: at_least(0)
    for name in (
        "parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished",
        "backoffLimitPerIndex", "maxFailedIndexes",
    )
}  # fmt: skip
RULES: Final[Rules] = {
    "batch.v1.Job": Rule(required=("spec",), checks=(job,)),
    "batch.v1.JobSpec": Rule(
        _NUMBERS | {"completionMode": one_of("Indexed", "NonIndexed"), "managedBy": written(names.domain_path)},
        checks=(job_spec,),
    ),
    "batch.v1.PodFailurePolicy": Rule({"rules": at_most(20)}),
    "batch.v1.PodFailurePolicyRule": Rule({"onPodConditions": at_most(20)}),
    "batch.v1.PodFailurePolicyOnPodConditionsPattern": Rule(
        {"type": written(names.qualified_name), "status": one_of("False", "True", "Unknown")}, ("status",)
    ),
    "batch.v1.JobStatus": Rule(
        {"active": at_least(0), "succeeded": at_least(0), "failed": at_least(0), "ready": at_least(0)}
    ),
    "batch.v1.CronJob": Rule(required=("spec",)),
    "batch.v1.CronJobSpec": Rule(
        {
            "concurrencyPolicy": one_of("Allow", "Forbid", "Replace"),
            "startingDeadlineSeconds": at_least(0),
            "successfulJobsHistoryLimit": at_least(0),
            "failedJobsHistoryLimit": at_least(0),
        },
        ("concurrencyPolicy",),
        (cron_job,),
    ),
}
