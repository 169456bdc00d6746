"""Events. The two groups share a store and differ in what they demand (pkg/apis/core/validation/events.go).

An event of `events.k8s.io/v1` says who reports what about whom, in so many characters, and is not rewritten later; a core
event may be as loose as it was in 2015, unless it has an `eventTime`. Objects are seen in their core form.
"""

from typing import Any, Final

from apiserver.validation import names
from apiserver.validation.rules import TOP, Found, Json, Path

_SHORT: Final = 128
_NOTE: Final = 1024
_UNSET: Final = "needs to be unset"
_EVENTS: Final = "events.k8s.io"
_FIXED: Final = {  # core name -> the name it has in events.k8s.io/v1, where that differs
    "action": "action",
    "reason": "reason",
    "type": "type",
    "message": "message",
    "involvedObject": "involvedObject",
    "related": "related",
    "reportingComponent": "reportingController",
    "reportingInstance": "reportingInstance",
    "eventTime": "eventTime",
}


def created(obj: Json, group: str, found: Found) -> None:
    """`group` is the one the client spoke to."""
    _namespace(obj, found)
    if obj.get("eventTime"):
        _told(obj, "reportingController" if group == _EVENTS else "reportingComponent", found)
    if group == _EVENTS:
        _strict(obj, found)


def _namespace(obj: Json, found: Found) -> None:
    """An event lives in the namespace of what it is about; those of cluster-wide objects in `default`."""
    about = obj.get("involvedObject", {}).get("namespace", "")
    own = obj.get("metadata", {}).get("namespace", "")
    homes = ("default", "kube-system") if obj.get("eventTime") else ("", "default", "kube-system")
    if about != own and (about or own not in homes):
        found.invalid(((TOP, "involvedObject"), "namespace"), about, "does not match event.namespace")


def _told(obj: Json, controller: str, found: Found) -> None:
    reporter = obj.get("reportingComponent", "")
    if not reporter:
        found.required((TOP, controller))
    for text in names.qualified_name(reporter) if reporter else ():
        found.invalid((TOP, controller), reporter, text)
    for field in ("reportingInstance", "action", "reason"):
        value = obj.get(field, "")
        if not value:
            found.required((TOP, field))
        elif len(value) > _SHORT:
            found.invalid((TOP, field), value, f"can have at most {_SHORT} characters")
    if len(obj.get("message", "")) > _NOTE:
        found.invalid((TOP, "message"), "", f"can have at most {_NOTE} characters")


def _strict(obj: Json, found: Found) -> None:
    name = obj.get("metadata", {}).get("name", "")
    for text in names.dns_subdomain(name) if name else ():
        found.invalid(((TOP, "metadata"), "name"), name, text)
    if not obj.get("eventTime"):
        found.required((TOP, "eventTime"))
    if obj.get("type") not in ("Normal", "Warning"):
        found.invalid((TOP, "type"), "", f"has invalid value: {obj.get('type', '')}")
    _series(obj, found)
    for field in ("firstTimestamp", "lastTimestamp", "count"):
        if obj.get(field):
            found.invalid((TOP, field), "", _UNSET)
    if any(obj.get("source", {}).values()):
        found.invalid((TOP, "source"), "", _UNSET)


def _series(obj: Json, found: Found) -> None:
    series = obj.get("series")
    if series is None:
        return
    path: Path = (TOP, "series")
    if series.get("count", 0) < 2:
        found.invalid((path, "count"), "", "should be at least 2")
    if not series.get("lastObservedTime"):
        found.required((path, "lastObservedTime"))


def updated(new: Json, old: Json, group: str, found: Found) -> None:
    if group != _EVENTS:
        created(new, group, found)
        return
    for field, shown in _FIXED.items():
        after: Any = new.get(field)
        if after != old.get(field):
            found.invalid((TOP, shown), after, names.IMMUTABLE)
    _series(new, found)
