"""Pods: what STATUS, READY and RESTARTS say (`printPod` in pkg/printers/internalversion/printers.go).

STATUS is the phase, unless something tells more: the pod's own reason, then the init container that is under way
(`Init:1/2`, `Init:CrashLoopBackOff`), then the first container that waits or has ended (`ImagePullBackOff`, `Completed`),
and last of all a deletion (`Terminating`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from apiserver.printers import text
from apiserver.printers.columns import CONTAINERS, NAME, Column, Json, Printer, Printers, columns, wide


@dataclass(slots=True)
class _Summary:
    reason: str
    total: int
    ready: int = 0
    restarts: int = 0
    last: str = ""

    def restarted(self, status: Json) -> None:
        self.restarts += status.get("restartCount", 0)
        finished = status.get("lastState", {}).get("terminated", {}).get("finishedAt")
        self.last = max(self.last, finished or "")


def cells(obj: Json, now: datetime) -> list[Any]:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    summary = _summary(obj)
    restarts = str(summary.restarts)
    if summary.restarts and summary.last:
        restarts = f"{restarts} ({text.since(summary.last, now)} ago)"
    addresses = status.get("podIPs", ())
    address = addresses[0].get("ip") if addresses else ""
    return [
        text.name(obj),
        f"{summary.ready}/{summary.total}",
        summary.reason,
        restarts,
        text.age(obj, now),
        address or text.NONE,
        spec.get("nodeName") or text.NONE,
        status.get("nominatedNodeName") or text.NONE,
        _readiness_gates(obj),
    ]


def conditions(obj: Json) -> list[Json]:
    """Finished pods are marked, so that printers can leave them out."""
    match obj.get("status", {}).get("phase"):
        case "Succeeded":
            return [_completed("Succeeded", "The pod has completed successfully.")]
        case "Failed":
            return [_completed("Failed", "The pod failed.")]
        case _:
            return []


def _completed(reason: str, message: str) -> Json:
    return {"type": "Completed", "status": "True", "reason": reason, "message": message}


def _summary(obj: Json) -> _Summary:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    sidecars = {one.get("name") for one in spec.get("initContainers", ()) if one.get("restartPolicy") == "Always"}
    reason = status.get("reason") or status.get("phase", "")
    if any(
        one.get("type") == "PodScheduled" and one.get("reason") == "SchedulingGated"
        for one in status.get("conditions", ())
    ):
        reason = "SchedulingGated"
    summary = _Summary(reason, len(spec.get("containers", ())) + len(sidecars))
    of_sidecars = _Summary("", 0)
    initializing = _init_containers(obj, sidecars, summary, of_sidecars)
    if not initializing or text.condition(obj, "Initialized") == "True":
        summary.restarts, summary.last = of_sidecars.restarts, of_sidecars.last
        _containers(obj, summary)
    deleted = "deletionTimestamp" in obj.get("metadata", {})
    if deleted and status.get("reason") == "NodeLost":
        summary.reason = "Unknown"
    elif deleted and status.get("phase") not in {"Succeeded", "Failed"}:
        summary.reason = "Terminating"
    return summary


def _init_containers(obj: Json, sidecars: set[Any], summary: _Summary, of_sidecars: _Summary) -> bool:
    """True while the pod is still initializing; counts restarts, and the sidecars that are ready."""
    for index, one in enumerate(obj.get("status", {}).get("initContainerStatuses", ())):
        sidecar = one.get("name") in sidecars
        summary.restarted(one)
        if sidecar:
            of_sidecars.restarted(one)
        state = one.get("state", {})
        ended, waiting = state.get("terminated"), state.get("waiting", {}).get("reason", "")
        if ended is not None and ended.get("exitCode", 0) == 0:
            continue
        if sidecar and one.get("started"):
            summary.ready += bool(one.get("ready"))
            continue
        if ended is not None:
            summary.reason = f"Init:{_ended(ended)}"
        elif waiting and waiting != "PodInitializing":
            summary.reason = f"Init:{waiting}"
        else:
            summary.reason = f"Init:{index}/{len(obj['spec'].get('initContainers', ()))}"
        return True
    return False


def _containers(obj: Json, summary: _Summary) -> None:
    running = False
    for one in reversed(obj.get("status", {}).get("containerStatuses", ())):
        summary.restarted(one)
        state = one.get("state", {})
        if state.get("waiting", {}).get("reason"):
            summary.reason = state["waiting"]["reason"]
        elif "terminated" in state:
            summary.reason = _ended(state["terminated"])
        elif one.get("ready") and "running" in state:
            running = True
            summary.ready += 1
    if summary.reason == "Completed" and running:
        summary.reason = "Running" if text.condition(obj, "Ready") == "True" else "NotReady"


def _ended(state: Json) -> str:
    if state.get("reason"):
        return str(state["reason"])
    if state.get("signal"):
        return f"Signal:{state['signal']}"
    return f"ExitCode:{state.get('exitCode', 0)}"


def _readiness_gates(obj: Json) -> str:
    gates = obj.get("spec", {}).get("readinessGates", ())
    if not gates:
        return text.NONE
    passed = sum(text.condition(obj, one.get("conditionType", "")) == "True" for one in gates)
    return f"{passed}/{len(gates)}"


def _pod_template(obj: Json, _: datetime) -> list[Any]:
    template = obj.get("template", {})
    labels = template.get("metadata", {}).get("labels", {})
    return [text.name(obj), *text.containers(template.get("spec", {})), text.labels(labels)]


PRINTERS: Final[Printers] = {
    ("", "Pod"): Printer(
        columns(
            Column("Ready", "Containers that are ready, of how many."),
            Column("Status", "What the pod as a whole is doing."),
            Column("Restarts", "Restarts of its containers, and when the last was."),
            after=(
                wide("IP", "Address of the pod."),
                wide("Node", "Node it runs on."),
                wide("Nominated Node", "Node where room is being made for it."),
                wide("Readiness Gates", "Readiness gates passed, of how many."),
            ),
        ),
        cells,
    ),
    ("", "PodTemplate"): Printer(
        (
            NAME,
            *(Column(one.name, one.description) for one in CONTAINERS),
            Column("Pod Labels", "Labels of the template."),
        ),
        _pod_template,
    ),
}
