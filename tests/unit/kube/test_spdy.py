"""SPDY/3.1: frames as kubectl sends them, frames that nobody should send, and sessions over a wire in memory."""

import asyncio
import random
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.spdy import MalformedFrame, Session, Stream, StreamRefused, frames
from kube.spdy.frames import Data, Decoder, Encoder, Frame, GoAway, Ping, Reset, SynReply, SynStream
from kube.spdy.session import STREAMS

# kubectl 1.27 `exec -i`, and 1.28 `port-forward`, as they came over the wire.
EXEC = (
    "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff"
    "80030001000000170000000300000000000 0c22e555c92929907000000ffff"
    "800300010000001900000005000000000000c22ac5565c92925f5a02000000ffff"
    "800300010000001500000007000000000000c229975a5404000000ffff"
    "000000030000000568656c6c6f0000000301000000"
).replace(" ", "")
FORWARD = (
    "800300010000003d0000000100000000000078f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45a024cc6461c0c0c0c05904"
    "89c44c50e26634000000 00ffff"
    "0000000101000000"
    "800300010000001800000003000000000000c2aa15540a2512d209000000ffff"
    "80030007000000080000000000000000"
).replace(" ", "")


def decoded(raw: bytes, step: int = 0) -> list[Frame]:
    decoder, step = Decoder(), step or len(raw) or 1
    return [frame for at in range(0, len(raw), step) for frame in decoder.feed(raw[at : at + step])]


def test_the_dictionary_is_the_drafts() -> None:
    assert len(frames.DICTIONARY) == 1423
    assert zlib.adler32(frames.DICTIONARY) == 0xE3C6A7C2


@pytest.mark.parametrize("step", [0, 1, 7, 64])
def test_what_kubectl_sends(step: int) -> None:
    kinds = ("error", "stdin", "stdout", "stderr")
    opened = [SynStream(2 * n + 1, (("streamtype", kind),)) for n, kind in enumerate(kinds)]
    found = decoded(bytes.fromhex(EXEC), step)
    assert found[:4] == opened
    assert b"".join(frame.data for frame in found[4:] if isinstance(frame, Data)) == b"hello"
    assert found[-1] == Data(3, b"", True)
    asked = (("port", "80"), ("requestid", "0"))
    assert decoded(bytes.fromhex(FORWARD), step) == [
        SynStream(1, (("streamtype", "error"), *asked)),
        Data(1, b"", True),
        SynStream(3, (("streamtype", "data"), *asked)),
        GoAway(0),
    ]


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)
HEADERS = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)).map(
    lambda found: tuple(found.items())
)
IDS = st.integers(1, 2**31 - 1)
FRAMES = st.one_of(
    st.builds(SynStream, IDS, HEADERS, st.booleans(), st.booleans(), st.integers(0, 2**31 - 1)),
    st.builds(SynReply, IDS, HEADERS, st.booleans()),
    st.builds(frames.MoreHeaders, IDS, HEADERS, st.booleans()),
    st.builds(Reset, IDS, st.integers(0, 2**32 - 1)),
    st.builds(frames.Settings, st.lists(st.tuples(st.integers(0, 2**24 - 1), st.integers(0, 2**32 - 1))).map(tuple)),
    st.builds(Ping, st.integers(0, 2**32 - 1)),
    st.builds(GoAway, IDS, st.integers(0, 11)),
    st.builds(frames.WindowUpdate, IDS, IDS),
    st.builds(Data, IDS, st.just(b""), st.booleans()),
)


@given(st.lists(FRAMES), st.integers(1, 40))
def test_what_is_encoded_is_decoded_however_it_is_cut(sent: list[Frame], step: int) -> None:
    encoder = Encoder()
    assert decoded(b"".join(map(encoder.encode, sent)), step) == sent


def test_values_of_one_name_are_joined_and_parted() -> None:
    sent = SynStream(1, (("A", "1"), ("b", "2"), ("a", "3")))
    assert decoded(Encoder().encode(sent)) == [SynStream(1, (("a", "1"), ("a", "3"), ("b", "2")))]


def test_garbage_is_malformed_and_nothing_worse() -> None:
    rng = random.Random(7)
    whole = bytes.fromhex(EXEC + FORWARD)
    refused = 0
    for _ in range(3000):
        raw = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.7 else rng.randbytes(rng.randrange(200)))
        for _ in range(rng.randrange(6)):
            if raw:
                raw[rng.randrange(len(raw))] = rng.randrange(256)
        try:
            decoded(bytes(raw), rng.randrange(1, 60))
        except MalformedFrame:
            refused += 1
    assert refused > 300


def control(kind: int, payload: bytes, length: int | None = None, version: int = 3) -> bytes:
    head = (0x80000000 | version << 16 | kind).to_bytes(4, "big")
    return head + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def bomb() -> bytes:
    deflate = zlib.compressobj(zdict=frames.DICTIONARY)
    return deflate.compress(b"\0" * (frames.LONGEST_HEADERS + 10)) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (control(1, b"", length=1 << 20), "control frame of 1048576 bytes"),
        (control(1, b"x", version=2), "version 2"),
        (control(1, b"short"), "too short"),
        (control(2, b"\0\0\0\1" + bomb()), "more than"),
        (control(1, b"\0\0\0\1\0\0\0\0\0\0not zlib"), "headers: "),
        (control(4, b"\xff\xff\xff\xff"), "4294967295 settings"),
        (bytes(8), "stream 0"),
        (b"GET / HTTP/1.1\r\n\r\n" + bytes(20), ""),
    ],
)
def test_what_nobody_should_send(raw: bytes, words: str) -> None:
    if words:
        with pytest.raises(MalformedFrame, match=words):
            decoded(raw)
    else:
        decoded(raw)  # read as a data frame of an absurd length: the session knows no such stream


def test_a_frame_of_an_unknown_type_is_passed_over() -> None:
    assert decoded(control(77, b"anything") + Encoder().encode(Ping(2))) == [Ping(2)]


# --- sessions ---------------------------------------------------------------------------------------------------------


class Pipe:
    """One end of a wire that holds 64 KiB in each direction."""

    def __init__(self) -> None:
        self.held = b""
        self.changed = asyncio.Condition()
        self.other: Pipe | None = None
        self.cut = False

    async def read(self) -> bytes:
        async with self.changed:
            await self.changed.wait_for(lambda: self.held or self.cut)
            found, self.held = self.held, b""
            self.changed.notify_all()
            return found

    async def write(self, data: bytes) -> None:
        to = self.other
        assert to is not None
        async with to.changed:
            for at in range(0, len(data), 4096):
                await to.changed.wait_for(lambda: to.cut or len(to.held) < 65_536)
                if to.cut:
                    raise ConnectionResetError("cut")
                to.held += data[at : at + 4096]
                to.changed.notify_all()

    async def end(self) -> None:
        for pipe in (self, self.other):
            assert pipe is not None
            async with pipe.changed:
                pipe.cut = True
                pipe.changed.notify_all()


def wires() -> tuple[Pipe, Pipe]:
    a, b = Pipe(), Pipe()
    a.other, b.other = b, a
    return a, b


Body = Callable[[Session], Awaitable[None]]


async def talk(client: Body, server: Body, **options: Callable[[dict[str, str]], bool]) -> None:
    ours, theirs = wires()
    ends = ((ours, Session(ours, server=False), client), (theirs, Session(theirs, server=True, **options), server))

    async def side(wire: Pipe, session: Session, body: Body) -> None:
        await session.run(lambda: body(session))
        await wire.end()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for end in ends:
            group.create_task(side(*end))


async def stalled(wire: Pipe) -> None:
    """Until what is on its way out has been the same for a hundred turns of the loop."""
    assert wire.other is not None
    same, before = 0, -1
    while same < 100:
        await asyncio.sleep(0)
        same, before = (same + 1 if len(wire.other.held) == before > 0 else 0), len(wire.other.held)


async def read_all(stream: Stream) -> bytes:
    pieces = []
    while piece := await stream.read():
        pieces.append(piece)
    return b"".join(pieces)


async def serve_echo(session: Session) -> None:
    async def echo(stream: Stream) -> None:
        while piece := await stream.read():
            await stream.write(piece)
        await stream.close()

    async with asyncio.TaskGroup() as group:
        while stream := await session.accept():
            group.create_task(echo(stream))


async def test_many_streams_echo_much_at_once() -> None:
    """Both ends send more than the wire and the buffers hold."""
    payload = random.Random(1).randbytes(600_000)

    async def client(session: Session) -> None:
        async def one(number: int) -> None:
            stream = await session.open((("n", str(number)),))

            async def send() -> None:
                await stream.write(payload)
                await stream.close()

            async with asyncio.TaskGroup() as both:
                both.create_task(send())
                answer = both.create_task(read_all(stream))
            assert answer.result() == payload

        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(one(number))

    await talk(client, serve_echo)


async def test_the_last_words_arrive_though_the_client_still_sends() -> None:
    async def client(session: Session) -> None:
        stream = await session.open((("streamtype", "stdin"),))

        async def send_until(heard: asyncio.Task[bytes]) -> None:
            with suppress(ConnectionResetError):
                while not heard.done():
                    await stream.write(bytes(50_000))

        async with asyncio.TaskGroup() as group:
            heard = group.create_task(read_all(stream))
            group.create_task(send_until(heard))
        assert heard.result() == b"enough" * 20_000

    async def server(session: Session) -> None:
        stream = await session.accept()
        assert stream is not None
        await stream.read()
        await stream.write(b"enough" * 20_000)

    await talk(client, server)


async def test_a_stream_may_be_refused_or_reset() -> None:
    async def client(session: Session) -> None:
        with pytest.raises(StreamRefused, match="refused"):
            await session.open((("streamtype", "nonsense"),))
        stream = await session.open((("streamtype", "data"),))
        assert await read_all(stream) == b"bye"
        assert stream.was_reset
        with pytest.raises(ConnectionResetError):
            await stream.write(b"x")

    async def server(session: Session) -> None:
        stream = await session.accept()
        assert stream is not None
        assert stream.headers == {"streamtype": "data"}
        await stream.write(b"bye")
        stream.reset()
        assert await session.accept() is None

    await talk(client, server, admit=lambda headers: headers.get("streamtype") == "data")


async def test_a_wire_that_breaks_ends_every_stream_and_wakes_every_writer() -> None:
    ours, theirs = wires()
    session = Session(ours, server=False)
    sessions = Session(theirs, server=True)

    done = asyncio.Event()

    async def body() -> None:
        stream = await session.open(())
        async with asyncio.TaskGroup() as group:
            group.create_task(fill(stream))
            reading = group.create_task(read_all(stream))
            await stalled(ours)
            await ours.end()
        assert reading.result() == b""
        assert await session.accept() is None
        done.set()

    async def fill(stream: Stream) -> None:
        with suppress(ConnectionResetError):
            while True:
                await stream.write(bytes(100_000))
        assert session.ended.is_set()

    async def never_reads() -> None:
        await sessions.accept()
        await done.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(session.run(body))
        group.create_task(sessions.run(never_reads))


async def test_a_reader_who_is_slow_holds_the_sender_up() -> None:
    sent, stuck = 0, asyncio.Event()

    async def server(session: Session) -> None:
        stream = await session.accept()
        assert stream is not None
        await stuck.wait()
        assert len(await read_all(stream)) == sent

    ours, theirs = wires()
    session, sessions = Session(ours, server=False), Session(theirs, server=True)

    async def client() -> None:
        stream = await session.open(())
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(fill(stream))
            await stalled(ours)
            assert 1_000_000 < sent < 2_000_000
            stuck.set()
            await writing
        await stream.close()

    async def fill(stream: Stream) -> None:
        nonlocal sent
        while not stuck.is_set():
            await stream.write(bytes(50_000))
            sent += 50_000

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(session.run(client))
        group.create_task(sessions.run(lambda: server(sessions)))


async def test_pings_are_answered_and_a_flood_of_them_ends_the_session() -> None:
    ours, theirs = wires()
    session, encoder, answers = Session(theirs, server=True), Encoder(), Decoder()

    async def body() -> None:
        await ours.write(encoder.encode(Ping(5)))
        assert list(answers.feed(await ours.read())) == [Ping(5)]
        await ours.write(encoder.encode(Ping(4)))  # as if it answered one of ours
        flood = encoder.encode(Ping(7)) * 10_000
        while not session.ended.is_set():
            await ours.write(flood)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:

        async def until_ended() -> None:
            await session.ended.wait()

        group.create_task(session.run(until_ended))
        task = group.create_task(body())
        await session.ended.wait()
        task.cancel()


async def test_streams_opened_and_reset_by_a_peer_that_never_reads_end_the_session() -> None:
    ours, theirs = wires()
    session, encoder = Session(theirs, server=True), Encoder()

    async def until_ended() -> None:
        await session.ended.wait()

    async def flood() -> None:
        with suppress(ConnectionResetError):
            for start in range(1, 400_000, 1000):
                opened = [
                    encoder.encode(SynStream(n, ())) + encoder.encode(Reset(n, 5))
                    for n in range(start, start + 1000, 2)
                ]
                await ours.write(b"".join(opened))
        raise AssertionError("the session took them all")

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(session.run(until_ended))
        task = group.create_task(flood())
        await session.ended.wait()
        task.cancel()


async def test_streams_that_nobody_accepts_do_not_pile_up_though_they_are_reset() -> None:
    ours, theirs = wires()
    session, encoder, answers = Session(theirs, server=True), Encoder(), Decoder()

    async def body() -> None:
        found: list[Frame] = []
        for number in range(1, 2 * STREAMS + 2, 2):
            await ours.write(encoder.encode(SynStream(number, ())) + encoder.encode(Reset(number, 5)))
            while len(found) < (number + 1) // 2:
                found += answers.feed(await ours.read())
        assert found[-2:] == [SynReply(2 * STREAMS - 1), Reset(2 * STREAMS + 1, 3)]
        await ours.end()

    async def idle() -> None:
        await session.ended.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(session.run(idle))
        group.create_task(body())


async def test_streams_with_wrong_numbers_are_reset() -> None:
    ours, theirs = wires()
    session, encoder, answers = Session(theirs, server=True), Encoder(), Decoder()

    async def body() -> None:
        found: list[Frame] = []
        await ours.write(b"".join(encoder.encode(SynStream(number, ())) for number in (3, 3, 1, 4, 5)))
        while len(found) < 5:
            found += answers.feed(await ours.read())
        assert found == [SynReply(3), Reset(3, 1), Reset(1, 1), Reset(4, 1), SynReply(5)]
        await ours.end()

    async def idle() -> None:
        await session.ended.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(session.run(idle))
        group.create_task(body())
