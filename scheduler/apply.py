"""Carries decisions out: bindings, and for pods that fit nowhere the condition and the Event that say why.

A binding that the server refuses because the pod is gone, changed or bound by somebody else needs nothing more: the next
pass sees what is true. The kernel is not touched, so there is nothing to `forget`.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from kube.client import Client, Patch
from kube.errors import ApiError, ApiUnreachable, Conflict, NotFound
from kube.events import Recorder, Reference
from kube.meta import now, timestamp
from kube.pods import Pod
from kube.resources import PODS
from scheduler.model import Bind, Decision, PodView, Refuse
from scheduler.observe import Observed

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Bindings in flight: enough to keep the server busy, few enough to leave it to others too."""


async def carry_out(
    decisions: Iterable[Decision], pods: Mapping[str, Pod], client: Client, observed: Observed, recorder: Recorder
) -> int:
    """How many pods were bound. `pods` are the objects by uid; the first other refusal by the server is raised after
    every decision was tried."""
    slots = asyncio.Semaphore(AT_ONCE)
    failures: list[Exception] = []
    bound = 0

    async def one(decision: Decision) -> None:
        nonlocal bound
        async with slots:
            match decision:
                case Bind(pod, node):
                    if await _bind(pod, node, client, observed, recorder, failures):
                        bound += 1  # not `+= await`: that would add to what it was before the wait
                case Refuse(pod, message):
                    await _refuse(pods[pod.uid], message, client, recorder, failures)

    async with asyncio.TaskGroup() as group:
        for decision in decisions:
            group.create_task(one(decision))
    if failures:
        raise failures[0]
    return bound


async def _bind(
    pod: PodView, node: str, client: Client, observed: Observed, recorder: Recorder, failures: list[Exception]
) -> bool:
    try:
        await client.bind(pod.name, pod.namespace, node, pod.uid)
    except (NotFound, Conflict) as error:
        log.info("pod %s/%s was not bound to %s: %s", pod.namespace, pod.name, node, error)
        return False
    except (ApiError, ApiUnreachable) as error:
        failures.append(error)
        return False
    observed.assume(pod, node)
    about = Reference("v1", "Pod", pod.namespace, pod.name, pod.uid)
    recorder.event(about, "Normal", "Scheduled", f"Successfully assigned {pod.namespace}/{pod.name} to {node}")
    return True


async def _refuse(pod: Pod, message: str, client: Client, recorder: Recorder, failures: list[Exception]) -> None:
    known = next((c for c in pod.status.conditions if c.type == "PodScheduled"), None)
    if known and (known.status, known.reason, known.message) == ("False", "Unschedulable", message):
        return
    changed = known.last_transition_time if known and known.status == "False" else None
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": timestamp(changed or now()),
    }
    body = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
    try:
        await client.patch(
            PODS, pod.metadata.name, body, pod.metadata.namespace, kind=Patch.STRATEGIC, subresource="status"
        )
    except (NotFound, Conflict):
        return
    except (ApiError, ApiUnreachable) as error:
        failures.append(error)
        return
    recorder.event(Reference.of(pod, kind="Pod"), "Warning", "FailedScheduling", message)
