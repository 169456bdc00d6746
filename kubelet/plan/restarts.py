"""Whether a container runs again, under which number, and what is remembered of its back-off.

A container's own rules go before its own policy, and that before the pod's (KEP-5307):

    restartPolicyRules (exit codes)  ->  container.restartPolicy  ->  pod.spec.restartPolicy

Numbers never fall: one more than the newest that the runtime knows; where the runtime was wiped, what the API was told or
what the log files say.
"""

import functools
import hashlib
import json

from kube.pods import Container, ContainerRestartRule, Pod, PodStatus
from kubelet import backoff
from kubelet.backoff import Entry
from kubelet.model import Seen
from kubelet.plan.situation import Situation, reported
from kubelet.runtime import CONTAINER_HASH, ContainerState, ContainerStatus

ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"


@functools.lru_cache(1024)
def _hashed(*parts: str) -> str:
    text = json.dumps(parts, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.lru_cache(1024)
def _stock_hash(name: str, image: str) -> str:
    """Upstream's, to the letter (container.HashContainer): FNV-1a of how Go prints the bytes of the JSON that Go makes of
    both. So a stock kubelet and this one can take each other's containers over and restart none."""
    text = json.dumps({"image": image, "name": name}, separators=(",", ":"), ensure_ascii=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    value = 0x811C9DC5
    for byte in f"([]uint8)[{' '.join(map(str, text.encode()))}]".encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value:x}"


def container_hash(container: Container) -> str:
    """Covers name and image only: a kubelet upgrade or a resize must restart nothing."""
    return _stock_hash(container.name, container.image)


def changed(container: Container, status: ContainerStatus) -> bool:
    known = status.annotations.get(CONTAINER_HASH)
    ours_of_before = _hashed(container.name, container.image)  # what this kubelet wrote until it wrote upstream's
    return known not in (None, container_hash(container), ours_of_before)


def backoff_key(pod: Pod, container: Container) -> str:
    """Another image or other resources may mend a crash loop, and start it over."""
    wants = container.resources
    groups = (("limits", wants.limits), ("requests", wants.requests))
    amounts = (f"{kind}.{name}={amount}" for kind, group in groups for name, amount in sorted(group.items()))
    return f"{pod.metadata.uid}/{container.name}/{_hashed(container.image, *amounts)}"


def remembered_backoffs(pod: Pod) -> dict[str, Entry]:
    """The back-offs that the API's status tells of: restarting the kubelet must not restart what is being held back."""
    found: dict[str, Entry] = {}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        before = reported(pod.status, container.name)
        if before is None or before.state.waiting is None or before.last_state.terminated is None:
            continue
        delay, ended = backoff.told(before.state.waiting.message), before.last_state.terminated
        if delay and ended.started_at is not None:
            found[backoff_key(pod, container)] = Entry(delay, ended.started_at)
    return found


def _matches(rule: ContainerRestartRule, exit_code: int) -> bool:
    codes = rule.exit_codes
    if codes is None or rule.action != "Restart":
        return False
    match codes.operator:
        case "In":
            return exit_code in codes.values
        case "NotIn":
            return exit_code not in codes.values
        case _:
            return False


def policy(pod: Pod, container: Container) -> str:
    return container.restart_policy or pod.spec.restart_policy


def runs_again(pod: Pod, container: Container, exit_code: int) -> bool:
    """Whether a container that exited with that code is started again."""
    if container.restart_policy and any(_matches(rule, exit_code) for rule in container.restart_policy_rules):
        return True
    match policy(pod, container):
        case "OnFailure":
            return exit_code != 0
        case "Never":
            return False
        case _:
            return True


def may_ever_run_again(pod: Pod, container: Container) -> bool:
    return policy(pod, container) != NEVER or bool(container.restart_policy and container.restart_policy_rules)


def should_start(at: Situation, container: Container) -> bool:
    """Whether an app container that is not running shall be started, now or after a back-off."""
    latest = at.seen.latest(container.name)
    if latest is not None:
        if latest.state is ContainerState.EXITED:
            mended = changed(container, latest) or latest.id in at.doomed
            return mended or runs_again(at.pod, container, latest.exit_code)
        return latest.state is not ContainerState.RUNNING
    # The runtime knows nothing of it. If it has run before (its remains were collected), it must not run twice.
    before = reported(at.previous, container.name)
    if before is None:
        return True
    if before.state.terminated:
        return runs_again(at.pod, container, before.state.terminated.exit_code)
    return not before.container_id or may_ever_run_again(at.pod, container)


def restart_count(container: Container, seen: Seen, previous: PodStatus, logged: int = 0) -> int:
    """The attempt number of the next start."""
    latest = seen.latest(container.name)
    if latest is not None:
        # A container that was created but never started is retried under the same number.
        return latest.attempt if latest.state is ContainerState.CREATED else latest.attempt + 1
    before = reported(previous, container.name)
    if before is None:
        return logged
    ran = before.state.running or before.state.terminated or before.last_state.terminated
    return max(before.restart_count + 1 if ran else before.restart_count, logged)
