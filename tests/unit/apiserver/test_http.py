"""HTTP over real sockets: what stands between bytes and `exchange` values."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator

import orjson
import pytest

from apiserver.errors import StatusError
from apiserver.http import bodies, connection, heads, server
from apiserver.http.exchange import Answer, Duplex, Feed, Outlet, Reply, Request, Stream, Takeover, framed, json_answer
from apiserver.http.server import Server, listening
from tests.unit.apiserver.sockets import Line, World, echo, get, post, serving


async def test_a_connection_is_kept_and_answers_come_in_order() -> None:
    async def slow_first(request: Request) -> Reply:
        if request.path == "/0":
            await asyncio.sleep(0.02)
        return json_answer({"path": request.path})

    async with serving(slow_first) as world:
        line = await world.open()
        line.send(b"".join(get(f"/{n}") for n in range(40)))  # more than are taken from the socket ahead
        assert [orjson.loads((await line.response()).body)["path"] for _ in range(40)] == [f"/{n}" for n in range(40)]
        assert len(world.server.connections) == 1
        assert world.observed[-1] == ("/39", 200, len(b'{"path":"/39"}'))


async def test_an_answer_has_what_every_answer_has() -> None:
    async with serving(echo) as world:
        answer = await world.ask(get("/a"))
        assert answer.header("cache-control") == "no-cache, private"
        assert answer.header("content-type") == "application/json"
        assert len(answer.header("audit-id") or "") == 36
        assert answer.header("date")
        assert (await world.ask(get("/a", "Audit-Id: mine"))).header("audit-id") == "mine"
        assert len((await world.ask(get("/a", "Audit-Id: " + "x" * 100))).header("audit-id") or "") == 36


@pytest.mark.parametrize(
    ("target", "path", "raw"),
    [
        ("/a/b?x=1&x=2&y", "/a/b", "/a/b"),
        ("https://host:6443/a/b?x=1&y=", "/a/b", "/a/b"),
        ("https://host", "/", "/"),
        ("/a%2fb%20c", "/a/b c", "/a%2fb%20c"),
        ("//a/../b", "//a/../b", "//a/../b"),
        ("*", "*", "*"),
    ],
)
async def test_targets(target: str, path: str, raw: str) -> None:
    async with serving(echo) as world:
        said = orjson.loads((await world.ask(get(target))).body)
        assert (said["path"], said["raw"]) == (path, raw)
        if "?" in target:
            assert said["query"] == {"x": "1", "y": ""}


async def test_bodies_by_length_and_in_chunks_and_none() -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(post(b"whole"))
        assert orjson.loads((await line.response()).body)["body"] == "whole"
        line.send(get("/p", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        assert orjson.loads((await line.response()).body)["body"] == "abcdefg"
        line.send(get("/p", method="POST"))
        assert orjson.loads((await line.response()).body)["body"] == ""
        big = b"x" * (2 << 20)
        line.send(post(big))
        assert orjson.loads((await line.response()).body)["length"] == len(big)
        line.send(get("/again"))
        assert (await line.response()).code == 200


async def test_a_client_that_waits_to_be_told_is_told() -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(get("/p", "Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert (await line.response()).code == 100
        line.send(b"abc")
        assert orjson.loads((await line.response()).body)["body"] == "abc"


async def test_too_large_is_said_before_it_is_sent_and_while_it_is() -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(get("/p", f"Content-Length: {bodies.MAX_BODY + 1}", "Expect: 100-continue", method="POST"))
        answer = await line.response()
        assert (answer.code, orjson.loads(answer.body)["reason"]) == (413, "RequestEntityTooLarge")
        assert await line.at_end()
        line = await world.open()
        line.send(get("/p", "Transfer-Encoding: chunked", method="POST"))
        for _ in range(13):
            line.send(b"40000\r\n" + b"x" * 0x40000 + b"\r\n")
        assert (await line.response()).code == 413


async def test_a_compressed_body_is_refused() -> None:
    async with serving(echo) as world:
        assert (await world.ask(post(gzip.compress(b"{}"), "Content-Encoding: gzip"))).code == 415


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\n\r\n", 400),
        (b"GET /%ff%fe HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /?" + b"&".join(b"a=1" for _ in range(2000)) + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * connection.MAX_HEAD + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 2 * connection.MAX_HEAD + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
async def test_what_is_no_http_gets_a_status_and_the_end(sent: bytes, code: int) -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(sent)
        answer = await line.response()
        assert (answer.code, orjson.loads(answer.body)["kind"]) == (code, "Status")
        if code == 431:
            assert await line.at_end()


async def test_head_has_the_length_and_no_body() -> None:
    async with serving(echo) as world:
        line = await world.open()
        line.send(get("/a", method="HEAD"))
        answer = await line.response(bodiless=True)
        assert int(answer.header("content-length") or 0) > 0
        line.send(get("/b"))
        assert orjson.loads((await line.response()).body)["path"] == "/b"


async def test_http_1_0_and_connection_close() -> None:
    async def stream(request: Request) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        return Stream(chunks(), "text/plain") if request.path == "/s" else await echo(request)

    async with serving(stream) as world:
        line = await world.open()
        line.send(get("/s", version="1.0"))
        assert (await line.response()).body == b"onetwo"
        line = await world.open()
        line.send(get("/a", "Connection: close"))
        assert (await line.response()).header("connection") == "close"
        assert await line.at_end()


async def test_streams_are_chunked_sized_or_compressed() -> None:
    async def stream(request: Request) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"one" * 1000
            yield b""
            yield b"two" * 1000

        match request.path:
            case "/sized":
                return Stream(
                    chunks(),
                    "text/plain",
                    headers=(("Content-Length", "6000"), ("Set-Cookie", "a"), ("Set-Cookie", "b")),
                )
            case "/whole":
                return Stream(chunks(), whole=True)
            case _:
                return Stream(chunks(), "")

    async with serving(stream) as world:
        line = await world.open()
        line.send(get("/plain", "Accept-Encoding: gzip") + get("/sized") + get("/whole", "Accept-Encoding: gzip"))
        plain, sized, whole = [await line.response() for _ in range(3)]
        assert plain.body == sized.body == gzip.decompress(whole.body) == b"one" * 1000 + b"two" * 1000
        assert plain.header("content-type") is None
        assert [value for key, value in sized.headers if key == "set-cookie"] == ["a", "b"]
        assert sized.header("transfer-encoding") is None


async def test_what_nobody_foresaw_is_a_500_and_the_connection_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: Request) -> Reply:
        if request.path == "/status":
            raise StatusError(429, "TooManyRequests", "later", {"retryAfterSeconds": 1})
        if request.path == "/mid":

            async def chunks() -> AsyncIterator[bytes]:
                yield b"one"
                raise ZeroDivisionError("mid")

            return Stream(chunks())
        raise ZeroDivisionError("oops")

    async with serving(broken) as world:
        line = await world.open()
        line.send(get("/a") + get("/status"))
        answer = await line.response()
        assert (answer.code, orjson.loads(answer.body)["reason"]) == (500, "InternalError")
        assert "ZeroDivisionError" in caplog.text
        answer = await line.response()
        assert (answer.code, answer.header("retry-after")) == (429, "1")
        line.send(get("/mid"))
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):  # cut, not ended as if it were whole
            await line.response()


async def test_upgrades_hand_over_everything_behind_the_head() -> None:
    async def upgrade(request: Request) -> Reply:
        if request.path in ("/no", "/yes"):
            return await echo(request)

        async def run(duplex: Duplex) -> None:
            await duplex.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            while piece := await duplex.read():
                await duplex.write(piece.upper())

        assert request.headers.getall("X-Stream-Protocol-Version") == ["v4", "v3"]  # type: ignore[attr-defined]
        return Takeover(run)

    wanted = (
        "Connection: Upgrade",
        "Upgrade: SPDY/3.1",
        "X-Stream-Protocol-Version: v4",
        "X-Stream-Protocol-Version: v3",
    )
    async with serving(upgrade) as world:
        for method, more in (("GET", ()), ("POST", ()), ("POST", ("Content-Length: 0",))):
            line = await world.open()
            line.send(get("/exec", *wanted, *more, method=method) + b"early ")
            assert (await line.response(bodiless=True)).code == 101
            line.send(b"late")
            async with asyncio.timeout(5):
                assert await line.reader.readexactly(10) == b"EARLY LATE"
            line.writer.close()
        line = await world.open()
        line.send(get("/no", *wanted) + get("/yes"))
        assert [orjson.loads((await line.response()).body)["path"] for _ in range(2)] == ["/no", "/yes"]


async def test_a_client_that_vanishes_ends_what_is_done_for_it() -> None:
    ended, begun = asyncio.Event(), asyncio.Event()

    async def forever(_: Request) -> Reply:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.set()
        raise AssertionError

    async with serving(forever) as world:
        line = await world.open()
        line.send(get("/"))
        await begun.wait()
        line.writer.transport.abort()
        async with asyncio.timeout(5):
            await ended.wait()
            while world.server.connections:
                await asyncio.sleep(0)


async def test_a_slow_reader_holds_up_its_producer_only() -> None:
    made = 0

    async def endless(request: Request) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            nonlocal made
            while True:
                made += 1
                yield b"x" * (64 << 10)

        return Stream(chunks()) if request.path == "/endless" else await echo(request)

    async with serving(endless) as world:
        line = await world.open()
        line.send(get("/endless"))
        before = -1
        while made != before:
            before = made
            assert (await world.ask(get("/other"))).code == 200
            await asyncio.sleep(0.05)
        assert 0 < made * (64 << 10) < 64 << 20
        (held,) = [one for one in world.server.connections if not one.idle]
        now = asyncio.get_running_loop().time()
        assert not held.overdue(now)
        assert held.overdue(now + connection.STALL_SECONDS + 1)


async def test_a_slow_taker_holds_up_its_sender() -> None:
    let_go = asyncio.Event()

    async def taking(request: Request) -> Reply:
        await let_go.wait()
        size = 0
        async for piece in request.chunks():
            size += len(piece)
        return json_answer({"size": size})

    async with serving(taking) as world:
        line = await world.open()
        line.send(get("/", f"Content-Length: {32 << 20}", method="POST"))
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(_sent(line, 32 << 20))
            done, _ = await asyncio.wait([sending], timeout=0.2)
            assert not done
            let_go.set()
        assert orjson.loads((await line.response()).body)["size"] == 32 << 20


async def _sent(line: Line, size: int) -> None:
    for _ in range(size >> 20):
        line.send(b"x" * (1 << 20))
        await line.writer.drain()


async def test_clients_that_keep_us_waiting_have_a_deadline() -> None:
    async with serving(echo) as world:
        idle, head, body = [await world.open() for _ in range(3)]
        head.send(b"GET / HTTP/1.1\r\nX: ")
        body.send(get("/", "Content-Length: 10", method="POST") + b"abc")
        idle.send(get("/"))
        await idle.response()
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            while len([one for one in world.server.connections if not one.idle]) < 2:
                await asyncio.sleep(0)
        for seconds, left in ((connection.HEAD_SECONDS, 2), (connection.BODY_SECONDS, 1), (connection.IDLE_SECONDS, 0)):
            late = [one for one in world.server.connections if not one.overdue(now + seconds + 1)]
            assert len(late) == left


async def test_the_clock_cuts_who_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLOCK_SECONDS", 0.01)
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.05)
    async with serving(echo) as world:
        line = await world.open()
        line.send(b"GET / HT")
        assert await line.at_end()


async def test_the_end_lets_requests_finish_ends_feeds_cleanly_and_closes_the_rest() -> None:
    running, finish, ending = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def dispatch(request: Request) -> Reply:
        async def feed(outlet: Outlet) -> None:
            outlet.write(framed(b"news\n"))
            await ending.wait()

        async def endless() -> AsyncIterator[bytes]:
            yield b"line"
            await asyncio.get_running_loop().create_future()

        match request.path:
            case "/feed":
                return Feed(feed)
            case "/log":
                return Stream(endless())
            case "/slow":
                running.set()
                await finish.wait()
        return Answer(200, b"{}")

    one = Server(dispatch, lambda *_: None)
    told: list[str] = []
    context = listening(
        one,
        "127.0.0.1",
        0,
        None,
        lambda: (told.append("closing"), ending.set())[0],
        ending=lambda: told.append("ending"),
    )
    port = await context.__aenter__()
    world = World(one, port)
    idle, feed, slow, log = [await world.open() for _ in range(4)]
    idle.send(get("/"))
    await idle.response()
    feed.send(get("/feed"))
    await feed.head()
    assert await feed.chunk() == b"news\n"
    log.send(get("/log"))
    await log.head()
    slow.send(get("/slow"))
    await running.wait()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        leaving = group.create_task(context.__aexit__(None, None, None))
        assert await feed.chunk() == b""  # a clean last chunk
        assert await idle.at_end()
        with contextlib.suppress(ConnectionError):
            while await log.reader.read(100):
                pass
        with pytest.raises(ConnectionRefusedError):
            await world.open()
        assert not leaving.done()
        finish.set()
        answer = await slow.response()
        assert (answer.code, answer.header("connection")) == (200, "close")
    assert told == ["ending", "closing"]
    await world.close()


async def test_a_path_of_its_own_is_refused_when_the_port_is_taken() -> None:
    async with serving(echo) as world:
        with pytest.raises(server.UsageError, match="set --bind-address and --secure-port"):
            async with listening(world.server, "127.0.0.1", world.port, None, lambda: None):
                pass


def test_audit_numbers_are_uuids_of_their_own() -> None:
    numbers = {heads.audit_id(None) for _ in range(1000)}
    assert len(numbers) == 1000
    assert all([len(part) for part in one.split("-")] == [8, 4, 4, 4, 12] for one in numbers)
