"""Our gRPC client against grpclib's server, and the headers of RFC 7541's examples."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from grpclib import const, exceptions
from grpclib.server import Server, Stream
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from kubelet.grpc import Channel, GRPCError, Lost, Status, _Stream
from kubelet.hpack import HeaderError, decoded, literal

Work = Callable[["Stream[BytesValue, BytesValue]"], Awaitable[None]]


def test_headers_of_the_rfc() -> None:
    assert decoded(bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff"))[""] == "www.example.com"  # C.4.1
    assert decoded(b"\x88") == {":status": "200"}
    assert decoded(b"\x20\x8d") == {":status": "404"}  # after "the table has no room"
    assert decoded(literal("grpc-message", "x" * 1000)) == {"grpc-message": "x" * 1000}


@given(
    st.dictionaries(st.text("abc-", min_size=1), st.text(st.characters(max_codepoint=255)), max_size=4), st.booleans()
)
def test_headers_as_others_write_them(headers: dict[str, str], huffman: bool) -> None:
    encoder = Encoder()
    encoder.header_table_size = 0
    given_headers = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    assert decoded(encoder.encode(given_headers, huffman=huffman)) == headers


@given(st.binary(max_size=40))
def test_headers_of_nobody_are_refused_or_read(block: bytes) -> None:
    with suppress(HeaderError):
        assert isinstance(decoded(block), dict)


class Service:
    def __init__(self, unary: Work | None = None, many: Work | None = None) -> None:
        self._work = {
            "/t/Unary": (unary, const.Cardinality.UNARY_UNARY),
            "/t/Many": (many, const.Cardinality.UNARY_STREAM),
        }

    def __mapping__(self) -> dict[str, const.Handler]:
        return {
            path: const.Handler(work, cardinality, BytesValue, BytesValue)
            for path, (work, cardinality) in self._work.items()
            if work is not None
        }


@asynccontextmanager
async def serving(path: Path, unary: Work | None = None, many: Work | None = None) -> AsyncIterator[None]:
    server = Server([Service(unary, many)])
    await server.start(path=str(path))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def channel(path: Path) -> AsyncIterator[Channel]:
    found = Channel(path=str(path))
    try:
        yield found
    finally:
        found.close()


async def echo(stream: "Stream[BytesValue, BytesValue]") -> None:
    question = await stream.recv_message()
    assert question is not None
    await stream.send_message(question)


def wire(data: bytes) -> bytes:
    return BytesValue(value=data).SerializeToString()


async def test_questions_and_answers_larger_than_every_window(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", echo), channel(tmp_path / "s") as client:
        for size in (0, 1, 16_384, 65_535, 3_000_000):
            assert await client.ask("/t/Unary", wire(b"x" * size), timeout=10) == wire(b"x" * size)
        several = [wire(bytes([n]) * 200_000) for n in range(20)]
        assert await asyncio.gather(*(client.ask("/t/Unary", one, timeout=20) for one in several)) == several


async def test_refusals(tmp_path: Path) -> None:
    async def refuse(stream: "Stream[BytesValue, BytesValue]") -> None:
        await stream.recv_message()
        raise exceptions.GRPCError(const.Status.NOT_FOUND, "nö: 100 %\nnot there")

    async with serving(tmp_path / "s", refuse), channel(tmp_path / "s") as client:
        with pytest.raises(GRPCError) as refused:
            await client.ask("/t/Unary", b"")
        assert (refused.value.status, refused.value.message) == (Status.NOT_FOUND, "nö: 100 %\nnot there")


@pytest.mark.parametrize(("said", "status"), [("5", 5), ("99", 2), ("9" * 5000, 2), ("²", 2), ("-1", 2), ("", 2)])
def test_a_status_that_is_none(said: str, status: int) -> None:
    error = _Stream(1, 0, b"", headers={"grpc-status": said}).verdict()
    assert isinstance(error, GRPCError)
    assert error.status == status


async def test_an_answer_may_be_of_sixteen_megabytes(tmp_path: Path) -> None:
    async def large(stream: "Stream[BytesValue, BytesValue]") -> None:
        question = await stream.recv_message()
        assert question is not None
        await stream.send_message(BytesValue(value=bytes(int(question.value))))

    async with serving(tmp_path / "s", large), channel(tmp_path / "s") as client:
        assert len(await client.ask("/t/Unary", wire(b"16000000"), timeout=20)) > 16_000_000
        with pytest.raises(GRPCError, match="RESOURCE_EXHAUSTED"):
            await client.ask("/t/Unary", wire(b"17000000"), timeout=20)
        assert len(await client.ask("/t/Unary", wire(b"1"), timeout=20)) == 3


async def test_who_stops_waiting_is_heard_of_and_disturbs_nobody(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def hang(stream: "Stream[BytesValue, BytesValue]") -> None:
        question = await stream.recv_message()
        assert question is not None
        if not question.value:
            await stream.send_message(question)
            return
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(tmp_path / "s", hang), channel(tmp_path / "s") as client:
        with pytest.raises(TimeoutError):
            await client.ask("/t/Unary", wire(b"x"), timeout=0.05)
        async with asyncio.timeout(5):
            await ended.wait()
        assert await client.ask("/t/Unary", b"", timeout=5) == b""


async def test_answers_without_end(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def count(stream: "Stream[BytesValue, BytesValue]") -> None:
        question = await stream.recv_message()
        assert question is not None
        try:
            for number in itertools.count():
                await stream.send_message(BytesValue(value=str(number).encode() * 1000))
                if question.value and number == 3:
                    raise exceptions.GRPCError(const.Status.ABORTED, "enough")
        finally:
            ended.set()

    async with serving(tmp_path / "s", many=count), channel(tmp_path / "s") as client:
        seen = 0
        answers = client.follow("/t/Many", b"")
        async for answer in answers:
            assert BytesValue.FromString(answer).value == str(seen).encode() * 1000
            seen += 1
            if seen == 3000:  # megabytes: windows were opened again on the way
                break
        await answers.aclose()  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            await ended.wait()
        with pytest.raises(GRPCError, match="enough"):
            async for _ in client.follow("/t/Many", wire(b"x")):
                pass


async def test_a_server_that_dies_and_comes_again(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hang(stream: "Stream[BytesValue, BytesValue]") -> None:
        begun.set()
        await asyncio.Event().wait()

    async with channel(tmp_path / "s") as client:
        with pytest.raises(FileNotFoundError):
            await client.ask("/t/Unary", b"")
        async with serving(tmp_path / "s", hang), asyncio.TaskGroup() as group:
            asked = group.create_task(_lost(client))
            await begun.wait()
            await asyncio.sleep(0)
            client._link._transport.close()  # type: ignore[union-attr]  # as a server does that is killed
            assert await asked
        (tmp_path / "s").unlink(missing_ok=True)
        async with serving(tmp_path / "s", echo):
            assert await client.ask("/t/Unary", wire(b"x"), timeout=5) == wire(b"x")


async def _lost(client: Channel) -> bool:
    try:
        await client.ask("/t/Unary", b"")
    except Lost:
        return True
    return False


async def test_a_peer_that_speaks_something_else(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(talk, str(tmp_path / "s")), channel(tmp_path / "s") as client:
        with pytest.raises(Lost):
            await client.ask("/t/Unary", b"", timeout=5)


async def test_a_server_that_takes_one_call_at_a_time(tmp_path: Path) -> None:
    """Its SETTINGS say so; what it does not take waits here."""
    most = 0
    now = 0

    async def slow(stream: "Stream[BytesValue, BytesValue]") -> None:
        nonlocal most, now
        now += 1
        most = max(most, now)
        question = await stream.recv_message()
        assert question is not None
        await asyncio.sleep(0)
        await stream.send_message(question)
        now -= 1

    async with serving(tmp_path / "s", slow), channel(tmp_path / "s") as client:
        await client.ask("/t/Unary", wire(b"x"), timeout=5)
        client._link._most = 1  # type: ignore[union-attr]  # grpclib's server cannot be told to
        await asyncio.gather(*(client.ask("/t/Unary", wire(b"x"), timeout=5) for _ in range(10)))
    assert most == 1
