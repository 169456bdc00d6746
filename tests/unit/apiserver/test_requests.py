"""Paths, Accept headers, certificates' names, admission: small functions of values."""

from __future__ import annotations

import pytest
from prometheus_client.exposition import generate_latest

from apiserver import authentication, cache, deletion, naming, subresources
from apiserver.authentication import ANONYMOUS, User
from apiserver.errors import StatusError
from apiserver.http import accept as accept_header
from apiserver.http.accept import form
from apiserver.http.exchange import Request
from apiserver.http.routes import Route, parse
from apiserver.metrics import CacheFigures, Metrics, labels_of
from tests.unit.apiserver.calls import serving


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/v1/pods", Route("", "v1", "pods")),
        ("/api/v1/pods/", Route("", "v1", "pods")),
        ("/api/v1/nodes/n/status", Route("", "v1", "nodes", None, "n", "status")),
        ("/api/v1/namespaces", Route("", "v1", "namespaces")),
        ("/api/v1/namespaces/x", Route("", "v1", "namespaces", None, "x")),
        ("/api/v1/namespaces/x/finalize", Route("", "v1", "namespaces", None, "x", "finalize")),
        ("/api/v1/namespaces/x/pods/p/log", Route("", "v1", "pods", "x", "p", "log")),
        ("/apis/apps/v1/namespaces/x/deployments/d", Route("apps", "v1", "deployments", "x", "d")),
        ("/apis/apps/v1/namespaces/x/deployments/d/status/more", None),
        ("/apis/apps/v1", None),
        ("/api/v1", None),
        ("/api/v2/pods", None),
        ("/healthz", None),
        ("/", None),
    ],
)
def test_paths(path: str, route: Route | None) -> None:
    assert parse(path) == route


TABLE = "application/json;as=Table;g=meta.k8s.io"
PARTIAL = ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "object"),
        ("*/*", "object"),
        ("application/json", "object"),
        ("application/vnd.kubernetes.protobuf,application/json", "object"),
        ("application/vnd.kubernetes.protobuf, */*", "object"),
        (f"{TABLE};v=v1,{TABLE};v=v1beta1,application/json", "table"),
        (f"{TABLE};v=v1beta1,application/json", "object"),
        (f"application/vnd.kubernetes.protobuf{PARTIAL},application/json{PARTIAL},application/json", "metadata"),
        ("application/yaml", "yaml"),
        ("text/html,application/json", "object"),
    ],
)  # fmt: skip
def test_accept(accept: str, expected: str) -> None:
    assert form(accept) == expected


@pytest.mark.parametrize("accept", ["text/html", "application/vnd.kubernetes.protobuf", "application/json;as=Nonsense"])
def test_accept_refuses(accept: str) -> None:
    with pytest.raises(StatusError) as refused:
        form(accept)
    assert refused.value.code == 406


def test_the_certificate_names_the_user() -> None:
    subject = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "me"),))
    assert authentication.user_of({"subject": subject}) == User("me", ("a", "b", "system:authenticated"))
    assert authentication.user_of(None) == ANONYMOUS
    assert authentication.user_of({"subject": ()}) == ANONYMOUS


def test_generated_names_fit_into_a_label() -> None:
    assert len(naming.generated_name("x" * 100)) == 63


def test_stamps() -> None:
    obj = {"spec": {"metadata": {"resourceVersion": "no"}}, "metadata": {"name": "a", "resourceVersion": "5"},
           "kind": "K", "apiVersion": "v1"}  # fmt: skip
    value = cache.storage_bytes(obj)
    assert b'"5"' not in value
    body = cache.stamp(value, 640)
    assert body.startswith(b'{"kind":"K","apiVersion":"v1","metadata":{"resourceVersion":"640","name":"a"}')
    assert cache.restamp(body, 77) == cache.stamp(value, 77)


def test_delete_options_from_body_and_query() -> None:
    asked = deletion.options({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}, {"gracePeriodSeconds": "9"})
    assert (asked.grace, asked.uid) == (0, "u")
    assert deletion.options({}, {"propagationPolicy": "Orphan"}).policy == "Orphan"
    assert deletion.options({"orphanDependents": False}, {}).policy == "Background"
    assert deletion.options({"dryRun": ["All"]}, {}).dry_run
    with pytest.raises(StatusError, match="whole number"):
        deletion.options({}, {"gracePeriodSeconds": "soon"})


def test_selectors_as_text() -> None:
    expressions = [
        {"key": "a", "operator": "In", "values": ["y", "x"]},
        {"key": "b", "operator": "Exists"},
        {"key": "c", "operator": "DoesNotExist"},
    ]
    selector = {"matchLabels": {"z": "1", "k": "2"}, "matchExpressions": expressions}
    assert subresources.selector_text(selector) == "k=2,z=1,a in (x,y),b,!c"


def test_strangers_make_no_series() -> None:
    async def body() -> bytes:
        return b""

    metrics = Metrics()
    for number in range(50):
        for path in (f"/api/v1/{number}", f"/apis/g{number}/v1/pods", f"/api/v1/pods/p/{number}", f"/{number}"):
            request = Request(f"M{number}", path, {"watch": "nonsense"}, "", {}, body, ANONYMOUS)
            metrics.observe(request, 401, 0.0)
    lines = generate_latest(metrics.registry).decode().splitlines()
    (line,) = [line for line in lines if line.startswith("apiserver_request_total{")]
    labels = 'component="apiserver",dry_run="",group="",resource="",scope="",subresource="",verb="OTHER",version=""'
    assert line == f'apiserver_request_total{{code="401",{labels}}} 200.0'


@pytest.mark.parametrize(
    ("method", "path", "query", "labels"),
    [
        ("GET", "/api/v1/pods", {}, "LIST,,v1,pods,,cluster"),
        ("GET", "/api/v1/namespaces/x/pods", {"watch": "1"}, "WATCH,,v1,pods,,namespace"),
        ("GET", "/api/v1/namespaces/x/pods/p", {}, "GET,,v1,pods,,resource"),
        ("POST", "/apis/apps/v1/namespaces/x/deployments", {}, "POST,apps,v1,deployments,,namespace"),
        ("PUT", "/api/v1/nodes/n/status", {}, "PUT,,v1,nodes,status,resource"),
        ("DELETE", "/api/v1/namespaces/x/pods", {}, "DELETECOLLECTION,,v1,pods,,namespace"),
        ("GET", "/api/v1/namespaces/x/pods/p/exec", {}, "CONNECT,,v1,pods,exec,resource"),
        ("GET", "/healthz", {}, "GET,,,,,"),
    ],
)
def test_what_requests_count_as(method: str, path: str, query: dict[str, str], labels: str) -> None:
    async def body() -> bytes:
        return b""

    found = labels_of(Request(method, path, query, "", {}, body, ANONYMOUS))
    assert ",".join(found) == f"{labels},apiserver"


async def test_the_figures_of_a_little_life() -> None:
    async with serving() as api:
        metrics = Metrics()
        metrics.registry.register(CacheFigures(api.cache, api.watches))
        api.writer.timed = metrics.stored
        watching = await api.watch("/api/v1/namespaces/default/configmaps?watch=true")
        await api.post("/api/v1/namespaces/default/configmaps", {"metadata": {"name": "a"}})
        assert await watching.brief() == ("ADDED", "a")
        await watching.close()
        text = generate_latest(metrics.registry).decode()
    for line in (
        'apiserver_storage_objects{resource="nodes"} 0.0',
        'apiserver_resource_objects{group="apps",resource="deployments"} 0.0',
        'apiserver_watch_events_total{group="",resource="configmaps",version="v1"} 1.0',
        'etcd_request_duration_seconds_count{group="",operation="create",resource="configmaps"} 1.0',
    ):
        assert line in text
    assert "process_resident_memory_bytes" in text


def test_what_nothing_satisfies_is_refused_in_json() -> None:
    assert not accept_header.wants_yaml("application/yaml;as=Table, text/html")
    with pytest.raises(StatusError, match="only the following media types are accepted"):
        accept_header.form("application/yaml;as=Table, text/html")
