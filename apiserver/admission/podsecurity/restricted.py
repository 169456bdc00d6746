"""Level restricted: what hardening asks of a pod. It has to be said, not only to be left out."""

from __future__ import annotations

from typing import Any, Final

from apiserver.admission.podsecurity.baseline import SECCOMP_TYPES, seccomp
from apiserver.admission.podsecurity.findings import (
    USER_NAMESPACES,
    Check,
    Finding,
    Pod,
    containers,
    plural,
    quoted,
    setters,
)

Obj = dict[str, Any]
_VOLUMES: Final = frozenset(
    [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "image",
    ]
)


def privilege_escalation(pod: Pod) -> Finding | None:
    names = pod.named(lambda _, context: context.get("allowPrivilegeEscalation") is not False)
    if not names:
        return None
    detail = f"{containers(names)} must set securityContext.allowPrivilegeEscalation=false"
    return Finding("allowPrivilegeEscalation != false", detail)


def capabilities(pod: Pod) -> Finding | None:
    def part(context: Obj, name: str) -> list[str]:
        return (context.get("capabilities") or {}).get(name) or []

    keeping = pod.named(lambda _, context: "ALL" not in part(context, "drop"))
    adding = pod.named(lambda _, context: any(one != "NET_BIND_SERVICE" for one in part(context, "add")))
    told = [f'{containers(keeping)} must set securityContext.capabilities.drop=["ALL"]'] if keeping else []
    if adding:
        added = sorted({one for _, context in pod.containers for one in part(context, "add")} - {"NET_BIND_SERVICE"})
        told.append(f"{containers(adding)} must not include {quoted(added)} in securityContext.capabilities.add")
    return Finding("unrestricted capabilities", "; ".join(told)) if told else None


def volumes(pod: Pod) -> Finding | None:
    bad = [one for one in pod.spec.get("volumes") or () if not _VOLUMES & one.keys()]
    if not bad:
        return None
    names = [one["name"] for one in bad]
    kinds = sorted({next((key for key in one if key != "name"), "unknown") for one in bad})
    verb = "uses" if len(names) == 1 else "use"
    detail = (
        f"{plural('volume', names)} {quoted(names)} {verb} restricted volume {plural('type', kinds)} {quoted(kinds)}"
    )
    return Finding("restricted volume types", detail)


def non_root(pod: Pod) -> Finding | None:
    whole = pod.context.get("runAsNonRoot")
    names = pod.named(lambda _, context: context.get("runAsNonRoot") is False)
    if whole is False or names:
        detail = f"{setters(whole is False, names)} must not set securityContext.runAsNonRoot=false"
        return Finding("runAsNonRoot != true", detail)
    silent = [] if whole else pod.named(lambda _, context: context.get("runAsNonRoot") is None)
    if not silent:
        return None
    return Finding("runAsNonRoot != true", f"pod or {containers(silent)} must set securityContext.runAsNonRoot=true")


def root_user(pod: Pod) -> Finding | None:
    whole = pod.context.get("runAsUser") == 0
    names = pod.named(lambda _, context: context.get("runAsUser") == 0)
    return Finding("runAsUser=0", f"{setters(whole, names)} must not set runAsUser=0") if whole or names else None


def seccomp_profile(pod: Pod) -> Finding | None:
    if found := seccomp(pod):
        return found
    if (pod.context.get("seccompProfile") or {}).get("type") in SECCOMP_TYPES:
        return None
    silent = pod.named(lambda _, context: context.get("seccompProfile") is None)
    if not silent:
        return None
    kinds = '"RuntimeDefault" or "Localhost"'
    detail = f"pod or {containers(silent)} must set securityContext.seccompProfile.type to {kinds}"
    return Finding("seccompProfile", detail)


def _on_linux(check: Any) -> Any:
    def run(pod: Pod) -> Finding | None:
        found: Finding | None = None if pod.is_windows else check(pod)
        return found

    return run


def _unless_mapped(check: Any) -> Any:
    def run(pod: Pod) -> Finding | None:
        found: Finding | None = None if pod.has_user_namespace else check(pod)
        return found

    return run


CHECKS: Final = (
    Check("allowPrivilegeEscalation", privilege_escalation, since=8),
    Check("allowPrivilegeEscalation", _on_linux(privilege_escalation), since=25),
    Check("capabilities_restricted", capabilities, since=22, replaces="capabilities_baseline"),
    Check("capabilities_restricted", _on_linux(capabilities), since=25, replaces="capabilities_baseline"),
    Check("restrictedVolumes", volumes, replaces="hostPathVolumes"),
    Check("runAsNonRoot", non_root),
    Check("runAsNonRoot", _unless_mapped(non_root), since=USER_NAMESPACES),
    Check("runAsUser", root_user, since=23),
    Check("runAsUser", _unless_mapped(root_user), since=USER_NAMESPACES),
    Check("seccompProfile_restricted", seccomp_profile, since=19, replaces="seccompProfile_baseline"),
    Check("seccompProfile_restricted", _on_linux(seccomp_profile), since=25, replaces="seccompProfile_baseline"),
)
