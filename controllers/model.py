"""What a plan may ask for: writes to the API, as values.

Bodies are what goes over the wire, because writes are patches: a field that is not named in one is not touched. A body with
`metadata.resourceVersion` is refused by the server when the object has changed since it was read, one with `metadata.uid`
when it is another object by now; both end in another pass over what is true then.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kube.events import Reference
from kube.resources import Resource

AnyResource = Resource[Any]
Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Create:
    resource: AnyResource
    namespace: str
    body: Body


@dataclass(frozen=True, slots=True)
class Amend:
    """Patch the object; one that is gone needs no patch."""

    resource: AnyResource
    namespace: str
    name: str
    body: Body
    kind: Literal["merge", "strategic"] = "merge"
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete the object if it still is the one with this uid. `grace` None leaves the grace period to the object."""

    resource: AnyResource
    namespace: str
    name: str
    uid: str
    grace: int | None = None
    propagation: Literal["Background", "Foreground", "Orphan"] | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """Record an Event."""

    about: Reference
    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Create | Amend | Delete | Tell
