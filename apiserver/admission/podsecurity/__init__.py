"""PodSecurity: what a pod may ask of its node, by the level that its namespace's labels name.

    pod-security.kubernetes.io/{enforce,warn,audit}          privileged | baseline | restricted
    pod-security.kubernetes.io/{enforce,warn,audit}-version  latest | v1.N

`enforce` refuses pods; `warn` answers pods and workloads with a Warning header; `audit` is checked for its spelling only,
until audit events carry annotations. A namespace whose level is raised is told which of its pods would not come again.
Upstream: k8s.io/pod-security-admission.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from apiserver import errors
from apiserver.admission.attributes import PODS, WRITE, Attributes, Operation, Plugin, Rule
from apiserver.admission.podsecurity.levels import LEVELS, Policy, policy, violations
from apiserver.admission.sight import Sight

Obj = dict[str, Any]
PREFIX: Final = "pod-security.kubernetes.io/"
MODES: Final = ("enforce", "audit", "warn")
WORKLOADS: Final = {
    "replicationcontrollers": ("spec", "template"),
    "podtemplates": ("template",),
    "replicasets.apps": ("spec", "template"),
    "deployments.apps": ("spec", "template"),
    "statefulsets.apps": ("spec", "template"),
    "daemonsets.apps": ("spec", "template"),
    "jobs.batch": ("spec", "template"),
    "cronjobs.batch": ("spec", "jobTemplate", "spec", "template"),
}
_UPDATE: Final[frozenset[Operation]] = frozenset({"UPDATE"})
_CHECKED_PODS: Final = 3000
_SECCOMP: Final = "seccomp.security.alpha.kubernetes.io/pod"


def plugin(sight: Sight) -> Plugin:
    security = _PodSecurity(sight)
    return Plugin(
        "PodSecurity",
        validating=(
            Rule(security.pod, PODS),
            Rule(security.changed_pod, PODS, _UPDATE, frozenset({"", "ephemeralcontainers"})),
            Rule(security.workload, frozenset(WORKLOADS), WRITE),
            Rule(security.namespace, frozenset({"namespaces"}), WRITE),
        ),
    )


@lru_cache(maxsize=256)
def _policies(labels: tuple[tuple[str, str], ...]) -> Mapping[str, Policy]:
    given = dict(labels)
    return {mode: policy(given.get(mode, ""), given.get(f"{mode}-version", "")) for mode in MODES}


def policies(labels: Mapping[str, str]) -> Mapping[str, Policy]:
    """The policy of each mode; a misspelt level enforces privileged and warns restricted, as upstream."""
    ours = [(key.removeprefix(PREFIX), value) for key, value in labels.items() if key.startswith(PREFIX)]
    return _policies(tuple(sorted(ours))) if ours else _NONE


_NONE: Final = _policies(())


@dataclass(frozen=True, slots=True)
class _PodSecurity:
    sight: Sight

    def _policies(self, namespace: str) -> Mapping[str, Policy]:
        entry = self.sight.entry("namespaces", "", namespace)
        return policies(entry.labels) if entry is not None else _NONE

    def pod(self, attributes: Attributes) -> None:
        wanted = self._policies(attributes.namespace)
        if wanted is _NONE:
            return
        pod, enforce = attributes.new, wanted["enforce"]
        if found := violations(enforce, pod["metadata"], pod["spec"]):
            raise attributes.refused(f'violates PodSecurity "{enforce}": {", ".join(map(str, found))}')
        _warn(attributes, wanted["warn"], pod["metadata"], pod["spec"])

    def changed_pod(self, attributes: Attributes) -> None:
        if significant(attributes.new, attributes.old or {}):
            self.pod(attributes)

    def workload(self, attributes: Attributes) -> None:
        wanted = self._policies(attributes.namespace)["warn"]
        if wanted.level == "privileged":
            return
        template: Any = attributes.new
        for step in WORKLOADS[attributes.kind]:
            template = (template or {}).get(step)
        if template and template.get("spec"):
            _warn(attributes, wanted, template.get("metadata") or {}, template["spec"])

    def namespace(self, attributes: Attributes) -> None:
        """Labels that say nothing are refused when they are new."""
        labels = attributes.new["metadata"].get("labels") or {}
        before = ((attributes.old or {}).get("metadata") or {}).get("labels") or {}
        causes = [fault for mode in MODES for fault in _faults(labels, before, mode)]
        if causes:
            raise errors.invalid("", "Namespace", attributes.new["metadata"]["name"], causes)
        enforce = policies(labels)["enforce"]
        if attributes.old is not None and enforce != policies(before)["enforce"] and enforce.level != "privileged":
            attributes.warnings += self._existing(attributes.name, enforce)

    def _existing(self, namespace: str, enforce: Policy) -> list[str]:
        by_reason: dict[str, list[str]] = {}
        for count, entry in enumerate(self.sight.entries("pods", namespace)):
            if count >= _CHECKED_PODS:
                break
            pod = entry.parse()
            if found := violations(enforce, pod["metadata"], pod["spec"]):
                by_reason.setdefault(", ".join(one.reason for one in found), []).append(entry.name)
        if not by_reason:
            return []
        head = f'existing pods in namespace "{namespace}" violate the new PodSecurity enforce level "{enforce}"'
        return [head, *sorted(f"{_pods(names)}: {reason}" for reason, names in by_reason.items())]


def _pods(names: list[str]) -> str:
    others = len(names) - 1
    more = f" (and {others} other pod{'s' if others > 1 else ''})" if others else ""
    return min(names) + more


def _warn(attributes: Attributes, wanted: Policy, metadata: Obj, spec: Obj) -> None:
    if found := violations(wanted, metadata, spec):
        attributes.warnings.append(f'would violate PodSecurity "{wanted}": {", ".join(map(str, found))}')


def _faults(labels: Obj, before: Obj, mode: str) -> list[errors.Cause]:
    level, version = labels.get(PREFIX + mode), labels.get(f"{PREFIX}{mode}-version")
    found: list[errors.Cause] = []
    if level is not None and level not in LEVELS and before.get(PREFIX + mode) != level:
        why = f"must be one of {', '.join(LEVELS)}"
        found.append(errors.cause(f"metadata.labels[{PREFIX}{mode}]", errors.INVALID, level, why))
    if version is not None and before.get(f"{PREFIX}{mode}-version") != version and not _is_version(version):
        why = 'must be "latest" or "v1.x"'
        found.append(errors.cause(f"metadata.labels[{PREFIX}{mode}-version]", errors.INVALID, version, why))
    return found


def _is_version(text: str) -> bool:
    minor = text.removeprefix("v1.")
    return text == "latest" or (text.startswith("v1.") and minor.isascii() and minor.isdigit())


def significant(pod: Obj, old: Obj) -> bool:
    """Whether an update changes something that the levels look at: images, seccomp annotations, new containers."""
    if _annotation(pod) != _annotation(old):
        return True
    for part in ("containers", "initContainers", "ephemeralContainers"):
        images = {one["name"]: one.get("image") for one in pod["spec"].get(part) or ()}
        if images != {one["name"]: one.get("image") for one in (old.get("spec") or {}).get(part) or ()}:
            return True
    return False


def _annotation(pod: Obj) -> str | None:
    found: str | None = ((pod.get("metadata") or {}).get("annotations") or {}).get(_SECCOMP)
    return found
