"""Audit: which requests are written down, how much of each, and where."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from apiserver.audit import configured, log, policy
from apiserver.audit.events import Audit, Record, sources
from apiserver.audit.policy import Level, Outcome
from apiserver.authentication import ANONYMOUS, User
from apiserver.authorization import Attributes, Decision
from apiserver.config import Config
from apiserver.http.exchange import JSON, Answer, Reply, Request
from apiserver.store import StoreAway, StoreLost
from kube.errors import UsageError
from tests.unit.apiserver.calls import ADMIN, serving
from tests.unit.apiserver.protobuf_writer import envelope

CMS = "/api/v1/namespaces/default/configmaps"
POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: [quiet]}
- {level: None, nonResourceURLs: [/readyz*, /version]}
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
  omitManagedFields: true
- {level: Request, verbs: [create, patch], resources: [{group: apps, resources: [deployments/*]}]}
- level: Metadata
  userGroups: [ops]
  namespaces: [kube-system, ""]
- level: Metadata
  resources: [{group: "", resources: [pods, "*/status"], resourceNames: [p]}]
- {level: Metadata, nonResourceURLs: ["*"]}
"""


def loaded(tmp_path: Path, text: str = POLICY) -> policy.Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    return policy.load(str(path))


@pytest.mark.parametrize(
    ("asked", "level"),
    [
        (Attributes(User("quiet"), "get", path="/metrics"), Level.NONE),
        (Attributes(User("u"), "get", path="/readyz/etcd"), Level.NONE),
        (Attributes(User("u"), "get", path="/metrics"), Level.METADATA),
        (Attributes(User("u"), "get", resource="configmaps", namespace="n"), Level.REQUEST_RESPONSE),
        (Attributes(User("u"), "get", "x.io", resource="configmaps", namespace="n"), Level.NONE),
        (Attributes(User("u"), "create", "apps", resource="deployments", subresource="scale"), Level.REQUEST),
        (Attributes(User("u"), "get", "apps", resource="deployments", subresource="scale"), Level.NONE),
        (Attributes(User("u"), "create", "apps", resource="deployments"), Level.REQUEST),  # as upstream reads "x/*"
        (
            Attributes(User("u", ("ops",)), "list", "apps", resource="deployments", namespace="kube-system"),
            Level.METADATA,
        ),
        (Attributes(User("u", ("ops",)), "list", resource="nodes"), Level.METADATA),
        (Attributes(User("u", ("ops",)), "list", resource="secrets", namespace="n"), Level.NONE),
        (Attributes(User("u"), "get", resource="pods", name="p"), Level.METADATA),
        (Attributes(User("u"), "get", resource="nodes", subresource="status", name="p"), Level.METADATA),
        (Attributes(User("u"), "get", resource="pods", subresource="log", name="p"), Level.NONE),
        (Attributes(User("u"), "get", resource="pods", name="q"), Level.NONE),
    ],
)
def test_the_first_rule_that_matches_decides(tmp_path: Path, asked: Attributes, level: Level) -> None:
    assert policy.outcome(loaded(tmp_path), asked).level == level


def test_what_a_rule_leaves_out_is_added_to_what_the_policy_does(tmp_path: Path) -> None:
    text = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: Metadata, users: [a], omitStages: [ResponseStarted], omitManagedFields: false}
- {level: Metadata}
"""
    found = loaded(tmp_path, text)
    assert policy.outcome(found, Attributes(User("a"), "get")) == Outcome(
        Level.METADATA, frozenset({"RequestReceived", "ResponseStarted"}), False
    )
    assert policy.outcome(found, Attributes(User("b"), "get")).omit_managed_fields


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "expected object"),
        ("a: [", "write YAML"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []", "at least one rule"),
        ("apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: None}]", "audit.k8s.io/v1beta1"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]", r"\$.rules\[0\].level"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [a]}]", "unknown field user"),
        (
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [/a*b]}]",
            r"rules\[0\].nonResourceURLs",
        ),
        (
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, nonResourceURLs: [/a], namespaces: [n]}]",
            "write two rules",
        ),
        (
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, resources: [{resourceNames: [a]}]}]",
            "name the resources too",
        ),
    ],
)
def test_a_wrong_policy_is_told(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"(?i){why}") as wrong:
        loaded(tmp_path, text)
    assert str(wrong.value).startswith("--audit-policy-file ")


def test_flags_go_together(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    for config, why in (
        (Config(audit_policy_file=str(path)), "needs --audit-log-path"),
        (Config(audit_log_path="-"), "needs --audit-policy-file"),
        (Config(audit_policy_file=str(path), audit_log_path="-", audit_log_maxage=-1), "must not be negative"),
        (Config(audit_policy_file=str(path), audit_log_path="/proc/none/audit"), "name a file in a writable directory"),
    ):
        with pytest.raises(UsageError, match=why), configured.opening(config):
            pass
    with configured.opening(Config()) as off:
        assert off is None


@contextmanager
def auditing(tmp_path: Path, text: str = POLICY) -> Iterator[tuple[Audit, Path]]:
    path = tmp_path / "audit.log"
    with log.writing(str(path), log.Rotation()) as lines:
        yield Audit(loaded(tmp_path, text), lines), path


def events(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def record(audit: Audit) -> Record:
    """Of a list of ConfigMaps."""

    async def body() -> bytes:
        return b""

    request = Request("GET", CMS, {}, "", {}, body, ADMIN)
    asked = Attributes(ADMIN, "list", resource="configmaps", namespace="default")
    found = audit.record(request, asked, ADMIN, Decision(True))
    assert found is not None
    return found


def test_a_request_as_an_event(tmp_path: Path) -> None:
    async def scenario(audit: Audit) -> None:
        async with serving(audit=audit) as calls:
            body = {"metadata": {"name": "a"}, "data": {"k": "v"}}
            created = await calls.post(CMS + "?fieldManager=me", body, User_Agent="test/1", X_Forwarded_For="1.2.3.4")
            assert created.code == 201
            assert (await calls.get("/version")).code == 200
            assert (await calls.get(f"{CMS}/nope")).code == 404

    with auditing(tmp_path) as (audit, path):
        asyncio.run(scenario(audit))
    created, missing = events(path)
    assert created["kind"] == "Event"
    assert (created["apiVersion"], created["level"], created["stage"]) == (
        "audit.k8s.io/v1", "RequestResponse", "ResponseComplete",
    )  # fmt: skip
    assert created["requestURI"] == f"{CMS}?fieldManager=me"
    assert created["verb"] == "create"
    assert created["user"] == {"username": "admin", "groups": ["system:masters", "system:authenticated"]}
    assert created["sourceIPs"] == ["1.2.3.4"]
    assert created["userAgent"] == "test/1"
    assert created["objectRef"] == {"resource": "configmaps", "namespace": "default", "name": "a", "apiVersion": "v1"}
    assert created["responseStatus"] == {"metadata": {}, "code": 201}
    assert created["requestObject"]["data"] == {"k": "v"}
    assert created["responseObject"]["metadata"]["uid"]
    assert "managedFields" not in created["responseObject"]["metadata"]
    assert created["annotations"]["authorization.k8s.io/decision"] == "allow"
    assert created["requestReceivedTimestamp"] <= created["stageTimestamp"]
    status = missing["responseStatus"]
    assert (status["code"], status["reason"], status["status"]) == (404, "NotFound", "Failure")
    assert missing["responseObject"]["kind"] == "Status"


def test_what_was_sent_in_protobuf_is_shown_as_json(tmp_path: Path) -> None:
    async def scenario(audit: Audit) -> None:
        async with serving(audit=audit) as calls:
            obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}
            sent = await calls.call("POST", CMS, envelope(obj), content_type="application/vnd.kubernetes.protobuf")
            assert sent.code == 201, sent.json
            assert (await calls.patch(f"{CMS}/a", {"data": {"k": "w"}})).code == 200

    with auditing(tmp_path) as (audit, path):
        asyncio.run(scenario(audit))
    created, patched = events(path)
    assert created["requestObject"]["data"] == {"k": "v"}
    assert patched["requestObject"] == {"data": {"k": "w"}}


def test_an_event_whose_objects_cannot_be_shown_is_written_without_them(tmp_path: Path) -> None:
    async def serve(_request: Request) -> Reply:
        return Answer(200, b"no JSON", JSON)

    with auditing(tmp_path) as (audit, path):
        asyncio.run(record(audit).follow(serve))
    (only,) = events(path)
    assert (only["verb"], only["responseStatus"]["code"]) == ("list", 200)
    assert "responseObject" not in only


def test_a_line_that_cannot_be_made_does_not_end_the_log(tmp_path: Path) -> None:
    with log.writing(str(tmp_path / "audit.log"), log.Rotation()) as lines:
        lines.offer(lambda: orjson.dumps(10**23))
        lines.offer(lambda: b"more\n")
    assert (lines.failed, (tmp_path / "audit.log").read_bytes()) == (1, b"more\n")


def test_who_acts_as_whom_and_who_is_refused(tmp_path: Path) -> None:
    everything = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]"

    async def scenario(audit: Audit) -> None:
        async with serving(audit=audit) as calls:
            assert (await calls.get("/api", Impersonate_User="jane", Impersonate_Group="g")).code == 200
            assert (await calls.get("/api", user=ANONYMOUS)).code == 403
            assert (await calls.get("/api", user=ANONYMOUS, Authorization="Bearer x")).code == 401

    with auditing(tmp_path, everything) as (audit, path):
        asyncio.run(scenario(audit))
    received, acting, _, refused, unknown = events(path)
    assert (received["stage"], acting["stage"]) == ("RequestReceived", "ResponseComplete")
    assert acting["user"]["username"] == "admin"
    assert acting["impersonatedUser"] == {"username": "jane", "groups": ["g", "system:authenticated"]}
    assert refused["annotations"]["authorization.k8s.io/decision"] == "forbid"
    assert refused["responseStatus"]["code"] == 403
    assert unknown["responseStatus"]["message"] == "Authentication failed, attempted: bearer"
    assert (unknown["responseStatus"]["code"], unknown["user"]) == (401, {"username": ""})


def test_who_may_not_act_as_somebody_is_written_down(tmp_path: Path) -> None:
    async def scenario(audit: Audit) -> None:
        async with serving(audit=audit) as calls:
            assert (await calls.get(CMS, user=User("jane"), Impersonate_User="root")).code == 403
            assert (await calls.get(CMS, Impersonate_Group="g")).code == 400

    with auditing(tmp_path) as (audit, path):
        asyncio.run(scenario(audit))
    denied, half = events(path)
    assert (denied["verb"], denied["stage"], denied["user"]) == ("list", "ResponseComplete", {"username": "jane"})
    assert (denied["responseStatus"]["code"], denied["responseStatus"]["details"]["name"]) == (403, "root")
    assert "impersonatedUser" not in denied
    assert (half["user"]["username"], half["responseStatus"]["code"]) == ("admin", 400)


def test_a_watch_starts_and_ends(tmp_path: Path) -> None:
    async def scenario(audit: Audit) -> None:
        async with serving(audit=audit) as calls:
            watching = await calls.watch(f"{CMS}?watch=true")
            await calls.post(CMS, {"metadata": {"name": "a"}})
            await watching.next()
            await watching.close()

    with auditing(tmp_path) as (audit, path):
        asyncio.run(scenario(audit))
    assert [(one["verb"], one["stage"]) for one in events(path)] == [
        ("watch", "ResponseStarted"),
        ("create", "ResponseComplete"),
        ("watch", "ResponseComplete"),
    ]


def test_where_a_request_comes_from() -> None:
    async def body() -> bytes:
        return b""

    def of(**headers: str) -> list[str]:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        return sources(Request("GET", "/", {}, "", sent, body, ADMIN, source="10.0.0.9"))

    assert of() == ["10.0.0.9"]
    assert of(X_Forwarded_For="1.1.1.1, 2.2.2.2") == ["1.1.1.1", "2.2.2.2", "10.0.0.9"]
    assert of(X_Real_Ip="10.0.0.9") == ["10.0.0.9"]


def test_files_rotate(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    (tmp_path / "audit-2001-01-01T00-00-00.000.log").write_text("old")
    (tmp_path / "audit-notes.log").write_text("not ours")
    file = log.File(str(path), log.Rotation(megabytes=1, backups=2))
    line = b"x" * (400 << 10) + b"\n"
    for _ in range(9):
        file.write(line)
    file.close()
    names = sorted(one.name for one in tmp_path.iterdir())
    assert len(names) == 4
    assert "audit-notes.log" in names
    assert "audit-2001-01-01T00-00-00.000.log" not in names
    assert path.stat().st_size == len(line)
    assert all((tmp_path / one).stat().st_size == 2 * len(line) for one in names if "T" in one)


def test_old_files_go_by_age(tmp_path: Path) -> None:
    (tmp_path / "audit-2001-01-01T00-00-00.000.log").write_text("old")
    file = log.File(str(tmp_path / "audit.log"), log.Rotation(megabytes=1, days=30))
    for _ in range(2):
        file.write(b"x" * (600 << 10))
    file.close()
    assert len(list(tmp_path.iterdir())) == 2


@contextmanager
def held(tmp_path: Path, size: int = 0) -> Iterator[tuple[log.Log, threading.Event]]:
    """A log whose thread is at the first line until the event is set."""
    started, go = threading.Event(), threading.Event()

    def slow() -> bytes:
        started.set()
        go.wait(10)
        return b"first\n"

    with log.writing(str(tmp_path / "audit.log"), log.Rotation()) as lines:
        lines.offer(slow, size)
        assert started.wait(10)
        yield lines, go


def test_events_that_wait_are_bounded_in_bytes_too(tmp_path: Path) -> None:
    half = log.QUEUED_BYTES // 2
    with held(tmp_path, 2 * log.QUEUED_BYTES) as (lines, go):  # alone it may be as large as it is
        lines.offer(lambda: b"lost\n", half)
        assert lines.lost == 1
        lines.offer(lambda: b"small\n")
        assert lines.lost == 2
        go.set()
    with held(tmp_path) as (lines, go):
        for _ in range(3):
            lines.offer(lambda: b"half\n", half)
        assert lines.lost == 1
        go.set()
    assert (tmp_path / "audit.log").read_bytes() == b"first\nfirst\nhalf\nhalf\n"


def test_a_record_says_what_its_event_keeps(tmp_path: Path) -> None:
    body = b'{"kind":"ConfigMapList"}'

    async def serve(_request: Request) -> Reply:
        return Answer(200, body, JSON)

    lines = log.Log(str(tmp_path / "audit.log"), log.Rotation())
    asyncio.run(record(Audit(loaded(tmp_path), lines)).follow(serve))
    assert lines._offered == len(body)


def test_a_full_queue_loses_events_and_counts_them(tmp_path: Path) -> None:
    with held(tmp_path) as (lines, go):
        for _ in range(log.QUEUED + 5):
            lines.offer(lambda: b"more\n")
        assert lines.lost == 5
        go.set()
    assert (tmp_path / "audit.log").read_bytes().count(b"\n") == log.QUEUED + 1


@pytest.mark.parametrize(
    ("error", "stage", "code"),
    [
        (RuntimeError("a bug"), "Panic", 500),
        (StoreAway("no leader"), "ResponseComplete", 503),
        (StoreLost("another history"), "ResponseComplete", 503),
        (asyncio.CancelledError(), "ResponseComplete", 504),
    ],
)
def test_ends_that_are_no_answers(tmp_path: Path, error: BaseException, stage: str, code: int) -> None:
    async def serve(_request: Request) -> Reply:
        raise error

    async def scenario(audit: Audit) -> None:
        with pytest.raises(type(error)):
            await record(audit).follow(serve)

    with auditing(tmp_path) as (audit, path):
        asyncio.run(scenario(audit))
    (only,) = events(path)
    assert (only["stage"], only["responseStatus"]["code"]) == (stage, code)
