"""Telling the API how pods are: one PATCH when something differs, none when nothing does.

Apart from the workers on purpose: while the API is away pods go on being restarted, and what there is to say waits
here, latest first.

A pod whose status was told in full, that is to be deleted and whose resources are given back, is then deleted: grace 0,
its uid as the precondition, so that a namesake is never hit. Of a static pod the status goes to its mirror, which has
another uid and is never deleted here. (pkg/kubelet/status/status_manager.go)
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kube.client import Client, Patch
from kube.errors import ApiError, ApiUnreachable, Conflict, NotFound
from kube.meta import Condition, timestamp
from kube.pods import ContainerState, ContainerStatus, Pod, PodStatus, VolumeMountStatus
from kube.reconcile import Keys, by_key
from kube.resources import PODS
from kubelet.status import OURS, PASSING

log = logging.getLogger(__name__)

# A pod that starts is told of when it runs, or after so many seconds: most run by then, and that is one request, not three.
PATIENCE = 0.8
ON_THE_WAY = ("ContainerCreating", "PodInitializing")


# --- the wire form ----------------------------------------------------------------------------------------------------
# Written out here and not left to the codec: it drops what equals a default, and upstream's clients require exitCode 0,
# restartCount 0 and ready false to be there.


def _state(state: ContainerState) -> dict[str, Any]:
    if state.running is not None:
        started = state.running.started_at
        return {"running": {"startedAt": timestamp(started) if started else None}}
    if state.terminated is not None:
        end = state.terminated
        body: dict[str, Any] = {
            "exitCode": end.exit_code,
            "reason": end.reason,
            "startedAt": timestamp(end.started_at) if end.started_at else None,
            "finishedAt": timestamp(end.finished_at) if end.finished_at else None,
        }
        if end.signal:
            body["signal"] = end.signal
        if end.message:
            body["message"] = end.message
        if end.container_id:
            body["containerID"] = end.container_id
        return {"terminated": body}
    if state.waiting is not None:
        return {
            "waiting": {k: v for k, v in (("reason", state.waiting.reason), ("message", state.waiting.message)) if v}
        }
    return {}


def _container(status: ContainerStatus) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": status.name,
        "state": _state(status.state),
        "lastState": _state(status.last_state),
        "ready": status.ready,
        "restartCount": status.restart_count,
        "image": status.image,
        "imageID": status.image_id,
    }
    if status.started is not None:
        body["started"] = status.started
    if status.container_id:
        body["containerID"] = status.container_id
    if status.allocated_resources:
        body["allocatedResources"] = status.allocated_resources
    if status.resources is not None:
        amounts = (("limits", status.resources.limits), ("requests", status.resources.requests))
        body["resources"] = {name: amount for name, amount in amounts if amount}
    if status.volume_mounts:
        body["volumeMounts"] = [_volume_mount(mount) for mount in status.volume_mounts]
    if status.user is not None and status.user.linux is not None:
        user = status.user.linux
        groups = list(user.supplemental_groups)
        body["user"] = {
            "linux": {"uid": user.uid, "gid": user.gid} | ({"supplementalGroups": groups} if groups else {})
        }
    return body


def _volume_mount(mount: VolumeMountStatus) -> dict[str, Any]:
    body: dict[str, Any] = {"name": mount.name, "mountPath": mount.mount_path}
    if mount.read_only:
        body["readOnly"] = True
    return body | ({"recursiveReadOnly": mount.recursive_read_only} if mount.recursive_read_only else {})


def _condition(condition: Condition) -> dict[str, Any]:
    body: dict[str, Any] = {
        "type": condition.type,
        "status": condition.status,
        "lastProbeTime": None,
        "lastTransitionTime": timestamp(condition.last_transition_time) if condition.last_transition_time else None,
    }
    if condition.observed_generation:
        body["observedGeneration"] = condition.observed_generation
    # null removes what an earlier patch set: conditions merge by type, field by field
    return body | {"reason": condition.reason or None, "message": condition.message or None}


def _addresses(old: Sequence[str], new: Sequence[str]) -> list[dict[str, str]]:
    """A list that merges by `ip`: who is gone must be named."""
    return [{"ip": ip} for ip in new] + [{"$patch": "delete", "ip": ip} for ip in old if ip not in new]


def status_patch(old: PodStatus, new: PodStatus) -> dict[str, Any] | None:
    """The strategic merge patch of `status` from what the API has to what is so; None when they say the same."""
    if old == new:
        return None
    patch: dict[str, Any] = {}
    simple: Mapping[str, tuple[Any, Any]] = {
        "observedGeneration": (old.observed_generation, new.observed_generation),
        "phase": (old.phase, new.phase),
        "reason": (old.reason, new.reason),
        "message": (old.message, new.message),
        "hostIP": (old.host_ip, new.host_ip),
        "podIP": (old.pod_ip, new.pod_ip),
        "qosClass": (old.qos_class, new.qos_class),
    }
    patch |= {key: after or None for key, (before, after) in simple.items() if before != after}
    if new.start_time is not None and old.start_time != new.start_time:
        patch["startTime"] = timestamp(new.start_time)
    if old.host_ips != new.host_ips:
        patch["hostIPs"] = _addresses([h.ip for h in old.host_ips], [h.ip for h in new.host_ips])
    if old.pod_ips != new.pod_ips:
        patch["podIPs"] = _addresses([p.ip for p in old.pod_ips], [p.ip for p in new.pod_ips])
    for key, statuses_before, statuses in (
        ("initContainerStatuses", old.init_container_statuses, new.init_container_statuses),
        ("containerStatuses", old.container_statuses, new.container_statuses),
        ("ephemeralContainerStatuses", old.ephemeral_container_statuses, new.ephemeral_container_statuses),
    ):
        if [_container(s) for s in statuses_before] != [_container(s) for s in statuses]:
            patch[key] = [_container(s) for s in statuses] or None
    known = {condition.type: _condition(condition) for condition in old.conditions}
    changed = [_condition(c) for c in new.conditions if c.type in OURS and known.get(c.type) != _condition(c)]
    there = {condition.type for condition in new.conditions}
    changed += [{"$patch": "delete", "type": kind} for kind in PASSING if kind in known and kind not in there]
    if changed:
        patch["conditions"] = changed
    return patch or None


def _news(status: PodStatus) -> bool:
    """Whether there is anything to say but that the pod is on its way."""
    if status.phase != "Pending" or status.reason:
        return True
    everyone = (*status.init_container_statuses, *status.container_statuses)
    return any(one.state.waiting is None or one.state.waiting.reason not in ON_THE_WAY for one in everyone)


# --- the publisher ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Word:
    status: PodStatus
    finished: bool  # resources are given back: a pod that is to be deleted may now go


class Publisher:
    """Says to the API what `say` was last given for each pod. `pod_of(uid)` is the object that shows it: the pod itself,
    or the mirror of a static one. `gone(uid)` is called when the API has forgotten a pod."""

    def __init__(self, client: Client, pod_of: Callable[[str], Pod | None], gone: Callable[[str], None]) -> None:
        self._client = client
        self._pod_of = pod_of
        self._gone = gone
        self._words: dict[str, _Word] = {}
        self._answered: dict[str, Pod] = {}
        self._unheard: dict[str, dict[str, Any]] = {}  # what the API took and still does not say, by uid
        self._keys: Keys[str] = Keys()
        self.sent = 0

    def say(self, uid: str, status: PodStatus, *, finished: bool = False) -> None:
        word = _Word(status, finished)
        if self._words.get(uid) != word:
            self._words[uid] = word
            self._keys.add(uid, after=0.0 if finished or _news(status) else PATIENCE)

    def check(self, uid: str) -> None:
        """The API's object changed: compare again what it says with what is so."""
        if uid in self._words:
            self._keys.add(uid)

    def forget(self, uid: str) -> None:
        self._words.pop(uid, None)
        self._unheard.pop(uid, None)
        self._answered.pop(uid, None)

    async def run(self) -> None:
        await by_key(self._tell, self._keys, workers=8, name="pod status")

    async def flush(self, seconds: float) -> None:
        """Say at once what is still to be said, as far as the API takes it in so many seconds; `run` has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for uid in list(self._words):
                    with contextlib.suppress(ApiError, ApiUnreachable):
                        await self._tell(uid)

    def _known(self, uid: str) -> Pod | None:
        """The newest the API has told us: by the watch, or in answer to our own patch, which is often earlier."""
        watched, answered = self._pod_of(uid), self._answered.get(uid)
        if watched is None or answered is None or watched.metadata.uid != answered.metadata.uid:
            return watched
        if _version(watched) >= _version(answered):
            del self._answered[uid]
            return watched
        return answered

    def _lost(self, uid: str, pod: Pod) -> None:
        """A static pod outlives its mirror: the next one is told of by `check`."""
        self._answered.pop(uid, None)
        self._unheard.pop(uid, None)
        if pod.metadata.uid == uid:
            self._gone(uid)

    async def _tell(self, uid: str) -> float | None:
        word, pod = self._words.get(uid), self._known(uid)
        if word is None or pod is None:
            return None
        meta = pod.metadata
        patch = status_patch(pod.status, word.status)
        try:
            if patch is not None and patch != self._unheard.get(uid):
                body = {"metadata": {"uid": meta.uid}, "status": patch}
                pod = await self._client.patch(
                    PODS, meta.name, body, meta.namespace, kind=Patch.STRATEGIC, subresource="status"
                )
                self.sent += 1
                self._answered[uid] = pod
                # An older API server drops fields it does not know: to say them again and again would not help.
                self._unheard[uid] = status_patch(pod.status, word.status) or {}
            if word.finished and meta.uid == uid and pod.metadata.deletion_timestamp is not None:
                await self._client.delete(PODS, meta.name, meta.namespace, grace_period_seconds=0, uid=uid)
        except NotFound:
            self._lost(uid, pod)
        except Conflict as error:
            # Another pod has the name by now: this one is gone, and the watch will say so.
            log.info("pod %s (%s): %s", meta.key, uid, error)
            self._lost(uid, pod)
        return None


def _version(pod: Pod) -> int:
    return int(pod.metadata.resource_version) if pod.metadata.resource_version.isdigit() else 0
