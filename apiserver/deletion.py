"""DELETE: at once, after a grace period, or when the last finalizer is gone.

    Pod with a node      deletionTimestamp = now + grace; its kubelet stops it and deletes again with grace 0
    Namespace            phase Terminating until the namespace controller has emptied and finalized it
    finalizers           deletionTimestamp = now; gone with the last finalizer (see `strategy.finished`)
    propagationPolicy    Orphan and Foreground are finalizers for the garbage collector
    anything else        gone

Upstream: k8s.io/apiserver/pkg/registry/rest/delete.go (BeforeDelete), .../generic/registry/store.go (Delete).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast, get_args

from apiserver import errors, strategy
from apiserver.admission import Attributes
from apiserver.cache import Entry, stamp, storage_bytes
from apiserver.pipeline import RETRIES, Obj, Target, Writer, now, rfc3339
from apiserver.store import Op
from kube.labels import FOREGROUND_DELETION, ORPHAN_DEPENDENTS

Policy = Literal["", "Orphan", "Background", "Foreground"]
ORPHANING: Final = frozenset({"jobs", "replicationcontrollers"})  # what they own stays unless the client says otherwise
JOB_WARNING: Final = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set"
    " propagationPolicy=Orphan to suppress this warning"
)
DEFAULT_GRACE: Final = 30
MAX_GRACE: Final = 9_223_372_036  # seconds: 292 years, as many as Go's durations hold
_WHOLE: Final = re.compile(r"[-+]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Options:
    """metav1.DeleteOptions, decoded."""

    grace: int | None = None
    policy: Policy = ""
    uid: str = ""
    rv: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Deleted:
    """`body` is the object as it is now, or was last; `gone` whether it is."""

    body: bytes
    gone: bool
    warnings: tuple[str, ...] = ()


def options(body: Mapping[str, Any], query: Mapping[str, str]) -> Options:
    """Body and query say the same things; the body wins where it speaks. Raises 400 and 422."""
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    if isinstance(grace, str):
        if not _WHOLE.fullmatch(grace):
            raise errors.bad_request(f"gracePeriodSeconds: {grace[:40]!r} is not a whole number of seconds")
        grace = int(grace)
    policy = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    orphan = body.get("orphanDependents")
    causes = []
    if orphan is not None and policy:
        why = "orphanDependents and deletionPropagation cannot be both set"
        causes.append(errors.cause("propagationPolicy", errors.INVALID, policy, why))
    elif orphan is not None:
        policy = "Orphan" if orphan else "Background"
    if policy not in get_args(Policy):
        known = ("Orphan", "Background", "Foreground")
        causes.append(errors.not_supported("propagationPolicy", policy, known))
    dry_run = body.get("dryRun") or ([query["dryRun"]] if query.get("dryRun") else [])
    if any(one != "All" for one in dry_run):
        causes.append(errors.not_supported("dryRun", dry_run, ("All",)))
    if causes:
        raise errors.invalid("meta.k8s.io", "DeleteOptions", "", causes)
    wanted = body.get("preconditions") or {}
    rv = wanted.get("resourceVersion") or ""
    return Options(grace, cast("Policy", policy), wanted.get("uid") or "", rv, bool(dry_run))


async def delete(writer: Writer, target: Target, asked: Options) -> Deleted:
    """Raises 404, 403 and 409 StatusErrors."""
    target = replace(target, dry_run=asked.dry_run)
    for _ in range(RETRIES + 1):
        entry = await writer.found(target)
        _check_preconditions(target, entry, asked)
        old = entry.parse()
        attributes = Attributes(
            target.resource,
            "DELETE",
            entry.namespace,
            entry.name,
            {},
            old,
            user=target.user,
            dry_run=target.dry_run,
        )
        await writer.admission.validate(attributes)
        done = await _attempt(writer, target, entry, old, _by_kind(target, old, asked))
        if done is not None:
            warned = target.resource.plural == "jobs" and not asked.policy
            return replace(done, warnings=(JOB_WARNING,)) if warned else done
    raise target.conflict()


def _by_kind(target: Target, old: Obj, asked: Options) -> Options:
    """Who says nothing means what its kind does by default; a finalizer that is there already has said it."""
    said = {ORPHAN_DEPENDENTS, FOREGROUND_DELETION} & set(old["metadata"].get("finalizers") or ())
    if asked.policy or said or target.resource.plural not in ORPHANING:
        return asked
    return replace(asked, policy="Orphan")


async def _attempt(writer: Writer, target: Target, entry: Entry, old: Obj, asked: Options) -> Deleted | None:
    new = planned(target.resource.graceful, old, asked, now())
    if new is None:
        return Deleted(entry.body, True) if await writer.drop(target, entry) else None
    if strategy.same(new, old):
        return Deleted(entry.body, False)
    value = storage_bytes(new)
    if target.dry_run:
        return Deleted(stamp(value, entry.rv), False)
    rv = await writer.commit(Op(target.resource.key(entry.namespace, entry.name), value, entry.rv))
    return None if rv is None else Deleted(stamp(value, rv), False)


def planned(graceful: bool, old: Obj, asked: Options, moment: datetime) -> Obj | None:
    """What the object becomes by being deleted now; None when it is gone at once."""
    new = strategy.copied(old)
    metadata = new["metadata"]
    finalizers = _finalizers(metadata.get("finalizers") or [], asked.policy)
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    grace = _grace(old, asked) if graceful else 0
    began = metadata.get("deletionTimestamp")
    if began is None:
        _begin(new, moment, grace)
    elif graceful and grace < metadata.get("deletionGracePeriodSeconds", 0):
        # A later DELETE may only shorten the time, counted from the first one.
        first = datetime.fromisoformat(began) - timedelta(
            seconds=min(metadata["deletionGracePeriodSeconds"], MAX_GRACE)
        )
        metadata["deletionTimestamp"] = rfc3339(first + timedelta(seconds=grace))
        metadata["deletionGracePeriodSeconds"] = grace
    return None if strategy.finished(new) else new


def _begin(obj: Obj, moment: datetime, grace: int) -> None:
    metadata = obj["metadata"]
    metadata["deletionTimestamp"] = rfc3339(moment + timedelta(seconds=grace))
    if obj["kind"] == "Namespace":
        obj["status"] = (obj.get("status") or {}) | {"phase": "Terminating"}
    else:
        metadata["deletionGracePeriodSeconds"] = grace
    if metadata.get("generation"):
        metadata["generation"] += 1


def _grace(pod: Obj, asked: Options) -> int:
    spec = pod.get("spec", {})
    if not spec.get("nodeName") or pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    if asked.grace is None and "deletionGracePeriodSeconds" in pod["metadata"]:
        return int(pod["metadata"]["deletionGracePeriodSeconds"])
    seconds = asked.grace if asked.grace is not None else spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE)
    return 1 if seconds < 0 else min(int(seconds), MAX_GRACE)


def _finalizers(present: list[str], policy: Policy) -> list[str]:
    ours = (ORPHAN_DEPENDENTS, FOREGROUND_DELETION)
    if not policy:
        return present
    wanted = {"Orphan": [ORPHAN_DEPENDENTS], "Foreground": [FOREGROUND_DELETION]}.get(policy, [])
    return [one for one in present if one not in ours] + wanted


def _check_preconditions(target: Target, entry: Entry, asked: Options) -> None:
    uid = entry.parse()["metadata"]["uid"]
    if asked.uid and asked.uid != uid:
        raise target.conflict(f"Precondition failed: UID in precondition: {asked.uid}, UID in object meta: {uid}")
    if asked.rv and asked.rv != str(entry.rv):
        raise target.conflict(
            f"the ResourceVersion in the precondition ({asked.rv}) does not match the ResourceVersion in record"
            f" ({entry.rv}). The object might have been modified"
        )
