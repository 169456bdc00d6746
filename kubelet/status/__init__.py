"""Words what was seen of a pod as its API status: pure.

Upstream's generateAPIPodStatus, convertToAPIContainerStatuses, getPhase (pkg/kubelet/kubelet_pods.go), mergePodStatus and
normalizeStatus (status/status_manager.go), the conditions (status/generate.go). The rules that matter most:

- A terminal phase is final, and is told only when nothing of the pod can be running: otherwise a controller starts a
  second copy.
- One waiting app container that never ran makes the pod Pending; one that ran before does not.
- lastTransitionTime moves only with the condition's status, times are whole seconds, lists have one order: an unchanged
  pod words to an equal status, and no PATCH is sent.
- The kubelet speaks of its own conditions only; what others wrote stays as they wrote it.
"""

from kube.pods import HostIP, PodIP, PodStatus
from kubelet.model import Stage
from kubelet.nodestatus.addresses import pod_addresses
from kubelet.resources import qos_class
from kubelet.status.conditions import OURS, PASSING, conditions
from kubelet.status.containers import container_statuses
from kubelet.status.phase import FAILED, PENDING, RUNNING, SUCCEEDED, TERMINAL, phase, phase_of
from kubelet.status.report import Report, Sentence, second

__all__ = [
    "FAILED",
    "OURS",
    "PASSING",
    "PENDING",
    "RUNNING",
    "SUCCEEDED",
    "TERMINAL",
    "Report",
    "Sentence",
    "phase_of",
    "pod_status",
]


def pod_status(report: Report) -> PodStatus:
    pod, previous, sentence = report.pod, report.previous, report.sentence
    inits, apps, guests = container_statuses(report)
    now = phase(report, inits, apps)
    if _never_let_in(report):
        inits, apps, guests = (), (), ()
    reason, message = (previous.reason, previous.message) if now == previous.phase else ("", "")
    if sentence is not None and now == sentence.phase:
        reason, message = sentence.reason, sentence.message
    ips = _pod_ips(report)
    return PodStatus(
        observed_generation=pod.metadata.generation or None,
        phase=now,
        conditions=conditions(report, now, inits, apps),
        reason=reason,
        message=message,
        host_ip=report.host_ips[0] if report.host_ips else "",
        host_ips=tuple(HostIP(ip=ip) for ip in report.host_ips),
        pod_ip=ips[0] if ips else "",
        pod_ips=tuple(PodIP(ip=ip) for ip in ips),
        start_time=previous.start_time or second(report.now),
        init_container_statuses=inits,
        container_statuses=apps,
        ephemeral_container_statuses=guests,
        qos_class=pod.status.qos_class or qos_class(pod),
        nominated_node_name=previous.nominated_node_name,
    )


def _never_let_in(report: Report) -> bool:
    """By this kubelet, or by one before it: an ended pod that nothing was ever told of the containers of."""
    if report.seen.containers:
        return False
    before = report.previous
    untold = not (before.init_container_statuses or before.container_statuses or before.ephemeral_container_statuses)
    rejected = report.sentence is not None and report.sentence.rejected
    return rejected or (before.phase in TERMINAL and untold)


def _pod_ips(report: Report) -> tuple[str, ...]:
    sandbox = next(iter(report.seen.sandboxes), None)
    addresses = pod_addresses(report.pod, sandbox.ips if sandbox else (), report.host_ips)
    if addresses or report.stage is Stage.SYNC:
        return addresses
    # A finished pod keeps the address it had: people look at it afterwards.
    return tuple(ip.ip for ip in report.previous.pod_ips)
