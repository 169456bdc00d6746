"""The client against servers that misbehave: whatever they do becomes one of two exceptions that say what happened."""

import asyncio
import ssl
from pathlib import Path

import orjson
import pytest

from kube import certificates
from kube.client import Client, Connection
from kube.errors import ApiError, ApiUnreachable, Expired, NotFound, TooManyRequests
from kube.resources import CONFIGMAPS, NODES
from tests.unit.kube.http import Exchange, serving

GOOD = orjson.dumps({"kind": "Node", "metadata": {"name": "a", "resourceVersion": "7"}})


def client(url: str, timeout: float = 5.0) -> Client:
    return Client(Connection(url), timeout=timeout)


async def test_one_connection_serves_many_requests() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(GOOD)

    async with serving(script) as server, client(server.url) as ours:
        for _ in range(20):
            assert (await ours.get(NODES, "a")).metadata.name == "a"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        ("404 Not Found", b'{"kind":"Status","reason":"NotFound","message":"no such node"}', NotFound, "no such node"),
        ("503 Service Unavailable", b"<html>busy</html>", ApiError, "<html>busy</html>"),
        ("500 Internal Server Error", b"", ApiError, "the server answered 500"),
        ("500 Internal Server Error", b"[1]", ApiError, "[1]"),
        ("500 Internal Server Error", b'{"message":"x","details":"odd"}', ApiError, "x"),
        ("302 Found", b"elsewhere", ApiError, "elsewhere"),
        ("200 OK", b"<html>welcome</html>", ApiUnreachable, "the answer is no Node"),
        ("200 OK", b'{"metadata":3}', ApiUnreachable, "the answer is no Node"),
        ("200 OK", b"", ApiUnreachable, "the answer is no Node"),
    ],
)
async def test_answers_that_are_none(status: str, body: bytes, kind: type[Exception], words: str) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(body, status, Location="/elsewhere")

    async with serving(script) as server, client(server.url) as ours:
        with pytest.raises(kind) as caught:
            await ours.get(NODES, "a")
        assert words in str(caught.value)
        assert server.seen == ["GET /api/v1/nodes/a"]


async def test_a_busy_server_says_when_to_come_again() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.answer(b"Too many requests", "429 Too Many Requests", Retry_After="3")

    async with serving(script) as server, client(server.url) as ours:
        with pytest.raises(TooManyRequests) as caught:
            await ours.get(NODES, "a")
        assert caught.value.retry_after == 3.0


async def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    async def script(exchange: Exchange) -> None:
        await asyncio.sleep(60)

    async with serving(script) as server, client(server.url, timeout=0.2) as ours:
        with pytest.raises(ApiUnreachable, match=rf"GET /api/v1/nodes/a at {server.url}: "):
            await ours.get(NODES, "a")


async def test_an_answer_that_breaks_off_and_a_server_that_is_away() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin(Content_Length="1000")
        raise ConnectionError

    async with serving(script) as server, client(server.url) as ours:
        with pytest.raises(ApiUnreachable):
            await ours.get(NODES, "a")
    async with client(server.url) as ours:
        with pytest.raises(ApiUnreachable, match=r"Connection refused|Connect call failed") as caught:
            await ours.get(NODES, "a")
    assert "object at 0x" not in str(caught.value)


async def test_a_cancelled_request_leaves_a_usable_client() -> None:
    reached = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        if "slow" in exchange.target:
            reached.set()
            await asyncio.sleep(60)
        await exchange.answer(GOOD)

    async with serving(script) as server, client(server.url) as ours:
        task = asyncio.get_running_loop().create_task(ours.get(NODES, "slow"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await ours.get(NODES, "a")).metadata.name == "a"


async def test_a_list_is_read_page_by_page() -> None:
    async def script(exchange: Exchange) -> None:
        first = "continue" not in exchange.target
        page = {
            "metadata": {"resourceVersion": "9"} | ({"continue": "more"} if first else {}),
            "items": [{"metadata": {"name": "a" if first else "b"}}],
        }
        await exchange.answer(orjson.dumps(page))

    async with serving(script) as server, client(server.url) as ours:
        page = await ours.list(NODES)
    assert [n.metadata.name for n in page.items] == ["a", "b"]
    assert page.resource_version == "9"


def frame(kind: str, obj: object) -> bytes:
    return orjson.dumps({"type": kind, "object": obj}) + b"\n"


async def test_watch_frames_of_any_length_cut_anywhere() -> None:
    big = {"metadata": {"name": "big", "resourceVersion": "2"}, "data": {"x": "y" * 3_000_000}}
    stream = (
        frame("ADDED", {"metadata": {"name": "small", "resourceVersion": "1"}})
        + frame("MODIFIED", big)
        + b"\n"
        + frame("BOOKMARK", {"metadata": {"resourceVersion": "5"}})
    )

    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        for start in range(0, len(stream), 70_001):
            await exchange.send(stream[start : start + 70_001])

    async with serving(script) as server, client(server.url) as ours:
        found = [e async for e in ours.watch(CONFIGMAPS, resource_version="0")]
    assert [(e.type, e.object.metadata.resource_version) for e in found] == [
        ("ADDED", "1"),
        ("MODIFIED", "2"),
        ("BOOKMARK", "5"),
    ]
    assert len(found[1].object.data["x"]) == 3_000_000


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (frame("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}), Expired),
        (frame("ERROR", "what?"), ApiError),
        (b"<html>\n", ApiUnreachable),
        (frame("ADDED", {"metadata": 3}), ApiUnreachable),
    ],
)
async def test_frames_that_are_no_events(line: bytes, kind: type[Exception]) -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.send(line)

    async with serving(script) as server, client(server.url) as ours:
        with pytest.raises(kind):
            async for _ in ours.watch(NODES, resource_version="1"):
                pass


async def test_a_silent_watch_is_given_up() -> None:
    async def script(exchange: Exchange) -> None:
        await exchange.begin()
        await asyncio.sleep(60)

    async with serving(script) as server, client(server.url) as ours:
        with pytest.raises(ApiUnreachable, match="watch /api/v1/nodes"):
            async for _ in ours.watch(NODES, resource_version="1", idle=0.1):
                pass


async def test_a_certificate_of_another_ca_is_refused_in_words(tmp_path: Path) -> None:
    theirs, ours = certificates.authority("theirs"), certificates.authority("ours")
    pair = certificates.issue(theirs, "server", sans=["127.0.0.1"])
    (tmp_path / "pair.pem").write_bytes(pair.key + pair.certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "pair.pem")

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with Client(Connection(url, ca=ours.certificate)) as client_:
        with pytest.raises(ApiUnreachable) as caught:
            await client_.get(NODES, "a")
    listener.close()
    assert url in str(caught.value)
    assert "certificate verify failed" in str(caught.value)
    assert "object at 0x" not in str(caught.value)
