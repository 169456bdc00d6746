import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec

from kube.errors import NotFound
from kube.meta import Condition, ObjectMeta
from kube.pods import ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodIP, PodStatus
from kubelet.publish import Publisher, status_patch

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def status(**more: object) -> PodStatus:
    return PodStatus(**{"phase": "Running", "start_time": MOMENT, **more})  # type: ignore[arg-type]


def test_equal_statuses_say_nothing() -> None:
    full = status(
        conditions=(Condition(type="Ready", status="True", last_transition_time=MOMENT),),
        container_statuses=(ContainerStatus(name="a", started=True),),
        pod_ips=(PodIP(ip="10.0.0.2"),),
    )
    assert status_patch(full, full) is None
    # and still nothing after a trip over the wire
    assert status_patch(msgspec.json.decode(msgspec.json.encode(full), type=PodStatus), full) is None


def test_other_owners_conditions_are_left_alone() -> None:
    theirs = status(conditions=(Condition(type="example.com/gate", status="True"),))
    ours = status(conditions=(Condition(type="Ready", status="True", last_transition_time=MOMENT),))
    patch = status_patch(theirs, ours)
    assert patch is not None
    assert [c["type"] for c in patch["conditions"]] == ["Ready"]


def test_a_reason_that_is_over_is_taken_back() -> None:
    before = status(conditions=(Condition(type="Ready", status="False", reason="X", last_transition_time=MOMENT),))
    after = status(conditions=(Condition(type="Ready", status="True", last_transition_time=MOMENT),))
    patch = status_patch(before, after)
    assert patch is not None
    assert patch["conditions"][0]["reason"] is None


def test_what_clients_require_is_written_even_when_it_is_zero() -> None:
    ended = ContainerState(terminated=ContainerStateTerminated(exit_code=0, reason="Completed", finished_at=MOMENT))
    patch = status_patch(status(), status(container_statuses=(ContainerStatus(name="a", state=ended),)))
    assert patch is not None
    container = patch["containerStatuses"][0]
    assert (container["ready"], container["restartCount"], container["image"], container["imageID"]) == (
        False,
        0,
        "",
        "",
    )
    assert container["state"]["terminated"]["exitCode"] == 0
    assert container["lastState"] == {}


def test_an_address_that_is_gone_is_named() -> None:
    patch = status_patch(status(pod_ips=(PodIP(ip="10.0.0.2"),)), status(pod_ips=(PodIP(ip="10.0.0.3"),)))
    assert patch == {"podIPs": [{"ip": "10.0.0.3"}, {"$patch": "delete", "ip": "10.0.0.2"}]}


class _Api:
    """Takes patches, refuses those of one pod, and never answers for another."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def patch(self, _resource: object, name: str, *_: object, **__: object) -> Pod:
        if name == "refused":
            raise NotFound(404, "NotFound", name)
        if name == "hung":
            await asyncio.Event().wait()
        self.told.append(name)
        return Pod(metadata=ObjectMeta(name=name, uid=name))


async def test_what_is_still_to_be_said_is_said_at_the_end_and_not_waited_for_long() -> None:
    api = _Api()
    known = {
        name: Pod(metadata=ObjectMeta(name=name, namespace="d", uid=name)) for name in ("refused", "a", "b", "hung")
    }
    publisher = Publisher(api, known.get, lambda _uid: None)  # type: ignore[arg-type]  # what it uses of a client
    for name in known:
        publisher.say(name, status())
    await publisher.flush(0.05)
    assert api.told == ["a", "b"]


class _Old:
    """It takes what it knows of a status, which is the phase."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.pod = Pod(metadata=ObjectMeta(name="p", namespace="d", uid="u"))

    async def patch(self, _resource: object, _name: str, body: dict[str, Any], *_: object, **__: object) -> Pod:
        phase = body["status"].get("phase", self.pod.status.phase)
        self.told.append(phase)
        version = str(len(self.told))
        self.pod = Pod(
            metadata=msgspec.structs.replace(self.pod.metadata, resource_version=version), status=status(phase=phase)
        )
        return self.pod


async def test_what_an_api_server_does_not_know_is_said_once() -> None:
    api = _Old()
    publisher = Publisher(api, lambda _uid: api.pod, lambda _uid: None)  # type: ignore[arg-type]  # what it uses of a client
    for phase in ("Running", "Succeeded"):
        publisher.say("u", status(phase=phase, observed_generation=3))
        for _ in range(3):  # the watch tells of our own patch, and of somebody else's
            await publisher.flush(1)
    assert api.told == ["Running", "Succeeded"]
