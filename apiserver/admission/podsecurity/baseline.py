"""Level baseline: nothing that is a known way out of the pod."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

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
_CAPABILITIES: Final = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
_SYSCTLS: Final = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_unprivileged_port_start",
    }
)
_SYSCTLS_27: Final = _SYSCTLS | {"net.ipv4.ip_local_reserved_ports"}
_SYSCTLS_29: Final = _SYSCTLS_27 | {
    f"net.ipv4.tcp_{one}" for one in ("keepalive_time", "fin_timeout", "keepalive_intvl", "keepalive_probes")
}
_SYSCTLS_32: Final = _SYSCTLS_29 | {"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}
_SELINUX: Final = frozenset({"", "container_t", "container_init_t", "container_kvm_t"})
_SELINUX_31: Final = _SELINUX | {"container_engine_t"}
_APPARMOR: Final = "container.apparmor.security.beta.kubernetes.io/"
_SECCOMP: Final = ("seccomp.security.alpha.kubernetes.io/pod", "container.seccomp.security.alpha.kubernetes.io/")
SECCOMP_TYPES: Final = frozenset({"RuntimeDefault", "Localhost"})
_HOOKS: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_ACTIONS: Final = ("httpGet", "tcpSocket")
_LOCAL: Final = frozenset({"", "127.0.0.1", "::1"})


def app_armor(pod: Pod) -> Finding | None:
    def kind(context: Obj) -> str:
        return str((context.get("appArmorProfile") or {}).get("type") or "RuntimeDefault")

    whole = kind(pod.context) not in SECCOMP_TYPES
    names = pod.named(lambda _, context: kind(context) not in SECCOMP_TYPES)
    values = {kind(context) for context in (pod.context, *(one for _, one in pod.containers))} - SECCOMP_TYPES
    bad = [f'{key}="{value}"' for key, value in sorted(pod.annotations.items()) if _bad_app_armor(key, value)]
    if not (whole or names or bad):
        return None
    reason = f"forbidden AppArmor {plural('profile', [*values, *bad])}"
    told = [f"{setters(whole, names)} must not set AppArmor profile type to {quoted(sorted(values))}"] if values else []
    return Finding(reason, "; ".join([*told, ", ".join(bad)] if bad else told))


def _bad_app_armor(key: str, value: str) -> bool:
    allowed = value in ("", "runtime/default") or value.startswith("localhost/")
    return key.startswith(_APPARMOR) and not allowed


def capabilities(pod: Pod) -> Finding | None:
    def added(context: Obj) -> set[str]:
        return set((context.get("capabilities") or {}).get("add") or ()) - _CAPABILITIES

    names = pod.named(lambda _, context: bool(added(context)))
    if not names:
        return None
    found = sorted(set().union(*(added(context) for _, context in pod.containers)))
    detail = f"{containers(names)} must not include {quoted(found)} in securityContext.capabilities.add"
    return Finding("non-default capabilities", detail)


def host_namespaces(pod: Pod) -> Finding | None:
    found = [f"{one}=true" for one in ("hostNetwork", "hostPID", "hostIPC") if pod.spec.get(one)]
    return Finding("host namespaces", ", ".join(found)) if found else None


def host_path(pod: Pod) -> Finding | None:
    names = [one["name"] for one in pod.spec.get("volumes") or () if "hostPath" in one]
    return Finding("hostPath volumes", f"{plural('volume', names)} {quoted(names)}") if names else None


def host_ports(pod: Pod) -> Finding | None:
    def used(container: Obj) -> list[int]:
        return [port["hostPort"] for port in container.get("ports") or () if port.get("hostPort")]

    names = pod.named(lambda container, _: bool(used(container)))
    if not names:
        return None
    ports = sorted({str(port) for container, _ in pod.containers for port in used(container)})
    verb = "uses" if len(names) == 1 else "use"
    return Finding("hostPort", f"{containers(names)} {verb} {plural('hostPort', ports)} {', '.join(ports)}")


def probe_hosts(pod: Pod) -> Finding | None:
    names = pod.named(lambda container, _: bool(_hosts(container)))
    if not names:
        return None
    found = sorted({host for container, _ in pod.containers for host in _hosts(container)})
    verb = "uses" if len(names) == 1 else "use"
    return Finding("probe or lifecycle host", f"{containers(names)} {verb} probe or lifecycle host {quoted(found)}")


def _hosts(container: Obj) -> set[str]:
    lifecycle = container.get("lifecycle") or {}
    hooks = [*(container.get(one) for one in _HOOKS), lifecycle.get("postStart"), lifecycle.get("preStop")]
    return {(hook.get(one) or {}).get("host") or "" for hook in hooks if hook for one in _ACTIONS} - _LOCAL


def privileged(pod: Pod) -> Finding | None:
    names = pod.named(lambda _, context: bool(context.get("privileged")))
    return Finding("privileged", f"{containers(names)} must not set securityContext.privileged=true") if names else None


def proc_mount(pod: Pod) -> Finding | None:
    names = pod.named(lambda _, context: context.get("procMount", "Default") != "Default")
    if not names:
        return None
    found = sorted({context["procMount"] for _, context in pod.containers if "procMount" in context} - {"Default"})
    return Finding("procMount", f"{containers(names)} must not set securityContext.procMount to {quoted(found)}")


def proc_mount_unless_mapped(pod: Pod) -> Finding | None:
    return None if pod.has_user_namespace else proc_mount(pod)


def selinux(types: frozenset[str]) -> Callable[[Pod], Finding | None]:
    def bad(options: Obj) -> bool:
        return options.get("type", "") not in types or bool(options.get("user")) or bool(options.get("role"))

    def check(pod: Pod) -> Finding | None:
        given = [context.get("seLinuxOptions") or {} for context in (pod.context, *(one for _, one in pod.containers))]
        whole = bad(given[0])
        names = pod.named(lambda _, context: bad(context.get("seLinuxOptions") or {}))
        if not (whole or names):
            return None
        kinds = sorted({one.get("type", "") for one in given} - types)
        told = [f"{plural('type', kinds)} {quoted(kinds)}"] if kinds else []
        told += ["user may not be set"] if any(one.get("user") for one in given) else []
        told += ["role may not be set"] if any(one.get("role") for one in given) else []
        detail = f"{setters(whole, names)} set forbidden securityContext.seLinuxOptions: {'; '.join(told)}"
        return Finding("seLinuxOptions", detail)

    return check


def seccomp_annotations(pod: Pod) -> Finding | None:
    names = {_SECCOMP[0], *(_SECCOMP[1] + one["name"] for one, _ in pod.containers)}
    bad = [f'{key}="{pod.annotations[key]}"' for key in sorted(names) if _bad_seccomp(pod.annotations.get(key))]
    if not bad:
        return None
    return Finding("seccompProfile", f"forbidden {plural('annotation', bad)} {', '.join(bad)}")


def _bad_seccomp(value: str | None) -> bool:
    return (
        value is not None and value not in ("runtime/default", "docker/default") and not value.startswith("localhost/")
    )


def seccomp(pod: Pod) -> Finding | None:
    def bad(context: Obj) -> bool:
        profile = context.get("seccompProfile")
        return profile is not None and profile.get("type") not in SECCOMP_TYPES

    whole, names = bad(pod.context), pod.named(lambda _, context: bad(context))
    if not (whole or names):
        return None
    contexts = (pod.context, *(one for _, one in pod.containers))
    values = sorted({str(one["seccompProfile"].get("type")) for one in contexts if bad(one)})
    detail = f"{setters(whole, names)} must not set securityContext.seccompProfile.type to {quoted(values)}"
    return Finding("seccompProfile", detail)


def sysctls(allowed: frozenset[str]) -> Callable[[Pod], Finding | None]:
    def check(pod: Pod) -> Finding | None:
        bad = [one["name"] for one in pod.context.get("sysctls") or () if one["name"] not in allowed]
        return Finding("forbidden sysctls", ", ".join(bad)) if bad else None

    return check


def host_process(pod: Pod) -> Finding | None:
    def bad(context: Obj) -> bool:
        return bool((context.get("windowsOptions") or {}).get("hostProcess"))

    whole, names = bad(pod.context), pod.named(lambda _, context: bad(context))
    if not (whole or names):
        return None
    return Finding(
        "hostProcess", f"{setters(whole, names)} must not set securityContext.windowsOptions.hostProcess=true"
    )


CHECKS: Final = (
    Check("appArmorProfile", app_armor),
    Check("capabilities_baseline", capabilities),
    Check("hostNamespaces", host_namespaces),
    Check("hostPathVolumes", host_path),
    Check("hostPorts", host_ports),
    Check("hostProbesAndHostLifecycle", probe_hosts, since=34),
    Check("privileged", privileged),
    Check("procMount", proc_mount),
    Check("procMount", proc_mount_unless_mapped, since=USER_NAMESPACES),
    Check("seLinuxOptions", selinux(_SELINUX)),
    Check("seLinuxOptions", selinux(_SELINUX_31), since=31),
    Check("seccompProfile_baseline", seccomp_annotations),
    Check("seccompProfile_baseline", seccomp, since=19),
    Check("sysctls", sysctls(_SYSCTLS)),
    Check("sysctls", sysctls(_SYSCTLS_27), since=27),
    Check("sysctls", sysctls(_SYSCTLS_29), since=29),
    Check("sysctls", sysctls(_SYSCTLS_32), since=32),
    Check("windowsHostProcess", host_process),
)
