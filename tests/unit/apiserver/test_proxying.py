"""The proxy subresources, against backends of the test's own: what reaches them, and what comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from multidict import CIMultiDict
from yarl import URL

from apiserver import proxying
from apiserver.authentication import User
from apiserver.errors import StatusError
from apiserver.http.exchange import Answer, Reply, Request, Stream, Takeover
from apiserver.outward import Outward
from apiserver.proxying import Place, backend_path, endpoints, forwarded, named, rewritten
from tests.unit.apiserver.calls import ADMIN, Calls, serving

PODS = "/api/v1/namespaces/default/pods"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p", ("", "p", "")),
        ("p:80", ("", "p", "80")),
        ("https:p:", ("https", "p", "")),
        ("http:p:web", ("http", "p", "web")),
        (":p:80", ("", "p", "80")),
    ],
)
def test_names(text: str, found: tuple[str, str, str]) -> None:
    assert named(text, "pod") == found


@pytest.mark.parametrize("text", ["", ":80", "ftp:p:80", "a:b:c:d", "https::80"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(StatusError, match=f'invalid pod request "{text}"'):
        named(text, "pod")


def test_paths_are_kept_as_they_were_sent() -> None:
    assert backend_path(f"{PODS}/p/proxy/a%2Fb/../c/") == (f"{PODS}/p/proxy", "/a%2Fb/../c/")
    assert backend_path(f"{PODS}/p/proxy/") == (f"{PODS}/p/proxy", "/")
    assert backend_path(f"{PODS}/p/proxy") == (f"{PODS}/p/proxy", "")


@pytest.mark.parametrize(
    ("ours", "rest"),
    [
        ("/api/v1/namespaces/proxy/pods/p/proxy", "/x"),
        ("/api/v1/namespaces/proxy/pods/proxy/proxy", "/proxy/x"),
        ("/api/v1/nodes/proxy/proxy", "/proxy/x"),
        ("/api/v1/nodes/proxy/proxy", "/"),
        ("/api/v1/nodes/namespaces/proxy", "/a/b/c/d"),
        ("/api/v1/n%61mespaces/default/services/proxy/proxy", "/x"),
        (f"{PODS}/foo%2Fproxy", "/x"),
        (f"//{PODS}/p/proxy", "/x"),
    ],
)
def test_anything_may_be_called_proxy(ours: str, rest: str) -> None:
    assert backend_path(f"{ours}{rest}") == (ours, rest)


def test_a_path_behind_an_encoded_slash() -> None:
    assert backend_path(f"{PODS}/p/proxy%2fx") == (f"{PODS}/p/proxy", "/x")
    assert backend_path("/api/v1/nodes/proxy/proxy") == ("/api/v1/nodes/proxy/proxy", "")


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("/login?x=1#y", "/pre/proxy/login?x=1#y"),
        ("/login/", "/pre/proxy/login/"),
        ("http://10.0.0.1:80/login", "/pre/proxy/login"),
        ("http://api/pre/proxy/login", "/pre/proxy/login"),
        ("https://elsewhere/login", "https://elsewhere/login"),
        ("next", "next"),
    ],
)
def test_a_location_leads_back_through_us(location: str, seen: str) -> None:
    assert rewritten(location, "/pre/proxy", {"10.0.0.1:80", "api"}) == seen


def test_what_proves_who_asks_is_not_passed_on() -> None:
    headers = CIMultiDict(
        {
            "Host": "api:6443",
            "Authorization": "Bearer x",
            "Impersonate-User": "root",
            "X-Remote-User": "root",
            "Connection": "keep-alive, X-Private",
            "X-Private": "1",
            "Keep-Alive": "5",
            "Cookie": "a=b",
            "X-Forwarded-For": "1.2.3.4",
        }
    )
    headers.add("Accept", "a")
    headers.add("Accept", "b")
    asked = Request("GET", "/x", {}, "", headers, _nothing, User("me"), source="5.6.7.8", raw_path="/pre/proxy/x")
    assert forwarded(asked, "/pre/proxy") == [
        ("Cookie", "a=b"),
        ("Accept", "a"),
        ("Accept", "b"),
        ("X-Forwarded-For", "1.2.3.4, 5.6.7.8"),
        ("X-Forwarded-Uri", "/pre/proxy/x"),
        ("X-Forwarded-Host", "api:6443"),
        ("X-Forwarded-Proto", "https"),
        ("Host", "api:6443"),
    ]


def test_endpoints_that_are_ready_and_have_the_port() -> None:
    ready, unready = {"ready": True}, {"ready": False}
    slices: list[dict[str, Any]] = [
        {
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}, {"name": "", "port": 9}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": ready},
                {"addresses": ["10.0.0.2"], "conditions": unready},
                {"addresses": ["10.0.0.3"]},
            ],
        },
        {"addressType": "FQDN", "ports": [{"name": "web", "port": 1}], "endpoints": [{"addresses": ["x.y"]}]},
    ]
    assert endpoints(slices, "web") == [("10.0.0.1", 8080), ("10.0.0.3", 8080)]
    assert endpoints(slices, "") == [("10.0.0.1", 9), ("10.0.0.3", 9)]
    assert endpoints(slices, "absent") == []


# --- through the API --------------------------------------------------------------------------------------------------


async def _nothing() -> bytes:
    return b""


class Backend:
    """Says what it was asked; `/redirect` leads elsewhere, an Upgrade is granted and echoed."""

    def __init__(self) -> None:
        self.port = 0
        self.head = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, self.head = head.split("\r\n")[0], head
        if "Upgrade: echo" in head:
            writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
            while data := await reader.read(1000):
                writer.write(data)
        elif "/redirect" in first:
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            body = b""
            if "chunked" in head.lower():
                while size := int((await reader.readline()).strip() or b"0", 16):
                    body += (await reader.readexactly(size + 2))[:-2]
            elif "Content-Length: " in head:
                body = await reader.readexactly(int(head.partition("Content-Length: ")[2].split("\r\n")[0]))
            said = f"{first}|{len(body)}".encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Type: text/x\r\n"
                b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(said), said)
            )
        writer.close()


@asynccontextmanager
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Calls, Backend]]:
    """A pod and a service whose address is this machine's loopback, which only a test may reach."""
    monkeypatch.setattr(proxying, "_proxyable", lambda _host: None)
    backend = Backend()
    server = await asyncio.start_server(backend.accept, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]
    async with serving() as calls:
        container = {"name": "c", "image": "x", "ports": [{"containerPort": backend.port}]}
        await calls.post(PODS, {"metadata": {"name": "p"}, "spec": {"containers": [container]}})
        status = {"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}}
        assert (await calls.patch(f"{PODS}/p/status", status)).code == 200
        ports = [{"name": "web", "port": 80, "targetPort": backend.port}]
        await calls.post("/api/v1/namespaces/default/services", {"metadata": {"name": "s"}, "spec": {"ports": ports}})
        sliced = {
            "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": backend.port}],
            "endpoints": [{"addresses": ["10.1.2.3"], "conditions": {"ready": True}}],
        }
        url = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        assert (await calls.post(url, sliced)).code == 201
        yield calls, backend
    server.close()


async def ask(calls: Calls, method: str, path: str, body: bytes = b"", **headers: str) -> Reply:
    sent = CIMultiDict({"Host": "api", **{key.replace("_", "-"): value for key, value in headers.items()}})
    if body:
        sent["Content-Length"] = str(len(body))

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    path, _, query = path.partition("?")
    asked = Request(method, path, {}, query, sent, _nothing, ADMIN, source="5.6.7.8", raw_path=path, chunks=chunks)
    return await calls.api.dispatch(asked)


async def text(reply: Reply) -> str:
    assert isinstance(reply, Stream)
    return b"".join([piece async for piece in reply.chunks]).decode()


async def test_requests_of_any_kind_reach_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as (calls, backend):
        reply = await ask(calls, "GET", f"{PODS}/p/proxy/a%20b/?q=1&q=2")
        assert await text(reply) == "GET /a%20b/?q=1&q=2 HTTP/1.1|0"
        assert isinstance(reply, Stream)
        assert [value for key, value in reply.headers if key == "Set-Cookie"] == ["a=1", "b=2"]
        assert ("Content-Type", "text/x") in reply.headers
        big = bytes(5_000_000)
        said = await text(await ask(calls, "PUT", f"{PODS}/http:p:{backend.port}/proxy/x", big))
        assert said == "PUT /x HTTP/1.1|5000000"
        for method in ("DELETE", "PATCH", "OPTIONS"):
            assert (await text(await ask(calls, method, f"{PODS}/p/proxy/"))).startswith(f"{method} / ")
        moved = await ask(calls, "GET", f"{PODS}/p/proxy/redirect")
        assert isinstance(moved, Stream)
        assert (moved.code, dict(moved.headers)["Location"]) == (302, f"{PODS}/p/proxy/there")
        bare = await ask(calls, "GET", f"{PODS}/p/proxy?x=1")
        assert isinstance(bare, Answer)
        assert (bare.code, bare.headers["Location"]) == (301, f"{PODS}/p/proxy/?x=1")


async def test_an_upgrade_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def __init__(self) -> None:
            self.pieces, self.heard = [b"hello", b""], b""

        async def read(self) -> bytes:
            while len(self.pieces) == 1 and b"hello" not in self.heard:
                await asyncio.sleep(0)
            return self.pieces.pop(0)

        async def write(self, data: bytes) -> None:
            self.heard += data

    async with world(monkeypatch) as (calls, _):
        reply = await ask(calls, "GET", f"{PODS}/p/proxy/ws", Connection="Upgrade", Upgrade="echo")
        assert isinstance(reply, Takeover)
        client = Client()
        async with asyncio.timeout(10):
            await reply.run(client)
        assert client.heard.startswith(b"HTTP/1.1 101 ")
        assert client.heard.endswith(b"\r\n\r\nhello")


async def test_an_upgrade_too_passes_on_only_what_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        async def read(self) -> bytes:
            return b""

        async def write(self, data: bytes) -> None:
            pass

    headers = {
        "Connection": "Upgrade, X-Private",
        "X-Private": "1",
        "Upgrade": "echo",
        "Authorization": "Bearer x",
        "Proxy-Authorization": "Basic x",
        "TE": "trailers",
        "Content-Length": "5",
        "Transfer-Encoding": "chunked",
        "X-Forwarded-For": "1.2.3.4",
        "Cookie": "a=b",
        "Sec-WebSocket-Key": "a2V5",
    }
    async with world(monkeypatch) as (calls, backend):
        reply = await ask(calls, "GET", f"{PODS}/p/proxy/ws", b"", **headers)
        assert isinstance(reply, Takeover)
        async with asyncio.timeout(10):
            await reply.run(Gone())
        assert backend.head.split("\r\n") == [
            "GET /ws HTTP/1.1",
            "Host: api",
            "Cookie: a=b",
            "Sec-WebSocket-Key: a2V5",
            "X-Forwarded-For: 1.2.3.4, 5.6.7.8",
            f"X-Forwarded-Uri: {PODS}/p/proxy/ws",
            "X-Forwarded-Host: api",
            "X-Forwarded-Proto: https",
            "Connection: Upgrade",
            "Upgrade: echo",
            "",
            "",
        ]


async def test_refusals_in_upstreams_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as (calls, backend):
        services = "/api/v1/namespaces/default/services"
        for path, code, words in (
            (f"{PODS}/absent/proxy/", 404, 'pods "absent" not found'),
            (f"{PODS}/ftp:p:1/proxy/", 400, 'invalid pod request "ftp:p:1"'),
            (f"{PODS}/p:1/proxy/", 503, "error trying to reach service: "),
            (f"{PODS}/p:web/proxy/", 400, 'invalid port "web"'),
            (f"{PODS}/p:000080999/proxy/", 400, 'invalid port "000080999"'),
            (f"{services}/s:81/proxy/", 503, 'no service port 81 found for service "s"'),
            (f"{services}/s:other/proxy/", 503, 'no endpoints available for service "s:other"'),
            ("/api/v1/nodes/absent/proxy/metrics", 404, 'nodes "absent" not found'),
        ):
            with pytest.raises(StatusError) as caught:
                await ask(calls, "GET", path)
            assert (caught.value.code, words in caught.value.message) == (code, True), caught.value.message
        assert backend.port


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "", "x"],
)
def test_what_is_the_servers_own_is_not_reached_through_it(host: str) -> None:
    with pytest.raises(StatusError, match="address not allowed"):
        proxying._proxyable(host)
    proxying._proxyable("10.244.0.7")
    assert Place("http", "10.244.0.7", 80).kubelet is False


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "localhost", "::1"])
async def test_a_port_of_a_node_is_asked_at_an_address_that_may_be(host: str) -> None:
    """Who may write a node's status would else reach the server's own machine with it."""
    async with serving() as calls:
        assert (await calls.post("/api/v1/nodes", {"metadata": {"name": "n"}})).code == 201
        kind = "Hostname" if host == "localhost" else "InternalIP"
        status = {"status": {"addresses": [{"type": kind, "address": host}]}}
        assert (await calls.patch("/api/v1/nodes/n/status", status)).code == 200
        with pytest.raises(StatusError, match="address not allowed") as caught:
            await ask(calls, "GET", "/api/v1/nodes/n:1/proxy/")
        assert caught.value.code == 400


async def test_a_port_of_a_node_is_asked_at_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(monkeypatch) as (calls, backend):
        await calls.post("/api/v1/nodes", {"metadata": {"name": "n"}})
        status = {"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}}
        assert (await calls.patch("/api/v1/nodes/n/status", status)).code == 200
        checked: list[str] = []
        monkeypatch.setattr(proxying, "_proxyable", checked.append)
        assert await text(await ask(calls, "GET", f"/api/v1/nodes/n:{backend.port}/proxy/x")) == "GET /x HTTP/1.1|0"
        assert checked == ["127.0.0.1"]


async def test_a_cookie_that_one_clients_backend_sets_is_not_sent_for_another() -> None:
    async with Outward() as session:
        url = URL("http://n.example:80/")
        session.session.cookie_jar.update_cookies({"session": "secret"}, url)
        assert not session.session.cookie_jar.filter_cookies(url)
