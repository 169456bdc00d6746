"""Requests that are wrong before anybody reads their body: paths, queries, options, headers, framing."""

from __future__ import annotations

import base64
import gzip
import random
from dataclasses import dataclass
from urllib.parse import quote

JSON = "application/json"
PROTOBUF = "application/vnd.kubernetes.protobuf"
NS = "/api/v1/namespaces/default"
PATCHED = f"{NS}/configmaps/patched"


@dataclass(frozen=True, slots=True)
class Wrong:
    family: str
    data: bytes
    lenient: bool = False


def request(method: str, target: str, body: bytes = b"", content_type: str = JSON, *more: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *more]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def path(rng: random.Random) -> Wrong:
    pieces = [
        "..",
        ".",
        "",
        "%2e%2e",
        "%2f",
        "a%2fb",
        "%00",
        "%",
        "%zz",
        "%ff",
        "pods",
        "pods%20",
        "\xc3\xa9",
        "x" * 300,
        "*",
        "~",
        "a;b",
        "namespaces",
        "default",
        "status",
        "<script>",
        "${x}",
        "PODS",
        "pods/x/status/y/z",
    ]
    root = rng.choice(["/api/v1/", "/apis/apps/v1/", "/apis/", "/api/v1/namespaces/default/", "//", "/api/v2/", "/../"])
    target = root + "/".join(rng.choice(pieces) for _ in range(rng.randint(1, 6)))
    return Wrong(
        "path",
        request(rng.choice(["GET", "POST", "PUT", "DELETE", "PATCH"]), target + "?dryRun=All", b"{}"),
        lenient=True,
    )


def query(rng: random.Random) -> Wrong:
    wrong = [
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999999",
        "limit=1.5",
        "continue=x",
        "continue=%00",
        "continue=" + "A" * 4000,
        "continue=" + base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":"x","start":5}').decode(),
        "continue=" + base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":1e400,"start":"a/b"}').decode(),
        "continue=" + base64.urlsafe_b64encode(b"[" * 500).decode(),
        "resourceVersion=x",
        "resourceVersion=-1",
        "resourceVersion=%D9%A3",
        "resourceVersionMatch=Exact",
        "resourceVersionMatch=Sometimes&resourceVersion=1",
        "resourceVersionMatch=Exact&resourceVersion=0",
        "labelSelector=" + quote("a in (b"),
        "labelSelector=" + quote("a=b=c"),
        "labelSelector=" + quote("!!a"),
        "labelSelector=" + quote("a,,b"),
        "labelSelector=" + quote("=\u0000"),
        "labelSelector=" + "(" * 3000,
        "labelSelector=" + quote("a notin ()" * 50),
        "fieldSelector=x",
        "fieldSelector=" + quote("spec.x=1"),
        "fieldSelector=" + quote("metadata.name=a=b"),
        "fieldSelector=" + quote("a==b,!c"),
        "watch=perhaps",
        "watch=true&timeoutSeconds=x",
        "watch=true&timeoutSeconds=-5",
        "sendInitialEvents=true",
        "watch=true&sendInitialEvents=true",
        "watch=true&sendInitialEvents=x",
        "watch=true&resourceVersionMatch=NotOlderThan",
        "allowWatchBookmarks=2",
        "resourceVersion=99999999999999999999999999999",
        "&".join(["a=b"] * 2000),
        "limit=" + "9" * 6000,
        "includeObject=Everything",
        "pretty=%ff",
        "timeoutSeconds=9999999999999999999999",
    ]
    target = rng.choice([f"{NS}/configmaps", "/api/v1/pods", "/apis/apps/v1/deployments", "/apis/batch/v1/jobs"])
    accept = rng.choice([JSON, "application/json;as=Table;v=v1;g=meta.k8s.io", "application/yaml", "text/html"])
    asked = rng.choice(wrong)
    target = (
        f"{target}?{asked}&timeoutSeconds=1"
        if "watch=true" in asked and "timeoutSeconds" not in asked
        else f"{target}?{asked}"
    )
    return Wrong("query", request("GET", target, b"", "", f"Accept: {accept}"), lenient=True)


def options(rng: random.Random) -> Wrong:
    """Of deletes and subresources: bodies and queries."""
    bodies = [
        b"[]",
        b"1",
        b'{"gracePeriodSeconds":"x"}',
        b'{"gracePeriodSeconds":-9e9}',
        b'{"propagationPolicy":"Maybe"}',
        b'{"preconditions":{"uid":5}}',
        b'{"kind":"Pod"}',
        b'{"dryRun":["Some"]}',
        b'{"orphanDependents":true,"propagationPolicy":"Orphan"}',
        b'{"preconditions":{"resourceVersion":"x"}}',
    ]
    target = rng.choice(
        [
            PATCHED + "?gracePeriodSeconds=x&dryRun=All",
            PATCHED + "?dryRun=Some",
            PATCHED + "?propagationPolicy=Never&dryRun=All",
            f"{NS}/pods/none/eviction",
            f"{NS}/pods/none/binding",
            f"{NS}/pods/none/log?tailLines=x",
            f"{NS}/pods/none/exec?command=",
            "/apis/apps/v1/namespaces/default/deployments/none/scale",
            f"{NS}/serviceaccounts/default/token",
            f"{NS}/pods/none/portforward",
            "/api/v1/namespaces/default/finalize",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            f"{NS}/pods/none/ephemeralcontainers",
            f"{NS}/pods/none/resize",
        ]
    )
    method = rng.choice(["DELETE", "POST", "PUT", "PATCH"])
    body = rng.choice(bodies)
    return Wrong(
        "options",
        request(method, target, body, rng.choice([JSON, "application/merge-patch+json", PROTOBUF])),
        lenient=True,
    )


def headers(rng: random.Random) -> Wrong:
    odd = [
        "Accept: \xff",
        "Accept: " + "a," * 5000,
        "Accept-Encoding: gzip;q=x",
        "Authorization: Basic x",
        "Authorization: Bearer x.y.z",
        "Impersonate-User: ",
        "Impersonate-Extra-%zz: a",
        'If-None-Match: "x',
        "Audit-Id: \x7f",
        "Content-Encoding: gzip",
        "Connection: Upgrade\r\nUpgrade: h2c",
        "Connection: Upgrade\r\nUpgrade: websocket",
        "Expect: 200-maybe",
        "X: " + "y" * 60_000,
        "Transfer-Encoding: gzip",
    ]
    body = gzip.compress(b"{}") if rng.random() < 0.5 else b"{}"
    return Wrong("headers", request("POST", f"{NS}/configmaps?dryRun=All", body, JSON, rng.choice(odd)))


def framing(rng: random.Random) -> Wrong:
    """No HTTP, or not all of it that was announced."""
    start = f"POST {NS}/configmaps?dryRun=All HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode()
    chunked = start + b"Transfer-Encoding: chunked\r\n\r\n"
    return Wrong(
        "framing",
        rng.choice(
            [
                b"\x00" * 20 + b"\r\n\r\n",
                b"GET\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
                b"GET / HTTP/3.0\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"get / HTTP/1.1\r\n\r\n",
                start + b"Content-Length: -1\r\n\r\n",
                start + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
                start + b"Content-Length: 99999999999999999999\r\n\r\n",
                start + b"Content-Length: 9999999999\r\n\r\n",
                start + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
                chunked + b"zz\r\n",
                chunked + b"ffffffffffffffffff\r\n",
                chunked + b"2\r\n{}x\r\n",
                start + b"X : y\r\n\r\n",
                start + b"A: b\x00c\r\n\r\n",
                b"GET /\x01 HTTP/1.1\r\n\r\n",
                b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
                b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
                b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n",
            ]
        ),
    )
