"""WebSocket frames, those of RFC 6455's examples, and those nobody should send."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube.websocket import Connection, Decoder, MalformedMessage, Message, Opcode, accept_key, encode, masked

MASK = bytes.fromhex("37fa213d")


def decoded(raw: bytes, *, from_client: bool = False, step: int = 0, largest: int = 1 << 20) -> list[Message]:
    decoder, step = Decoder(from_client=from_client, largest=largest), step or len(raw) or 1
    return [message for at in range(0, len(raw), step) for message in decoder.feed(raw[at : at + step])]


def test_the_examples_of_the_rfc() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    hello = Message(Opcode.TEXT, b"Hello")
    assert encode(Opcode.TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert encode(Opcode.TEXT, b"Hello", MASK) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert decoded(bytes.fromhex("810548656c6c6f")) == [hello]
    assert decoded(bytes.fromhex("818537fa213d7f9f4d5158"), from_client=True) == [hello]
    assert decoded(bytes.fromhex("010348656c" + "890548656c6c6f" + "80026c6f")) == [
        Message(Opcode.PING, b"Hello"),
        hello,
    ]
    assert encode(Opcode.BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert encode(Opcode.BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


@given(st.binary(max_size=300), st.booleans(), st.integers(1, 50))
def test_what_is_encoded_is_decoded(data: bytes, client: bool, step: int) -> None:
    raw = encode(Opcode.BINARY, data, MASK if client else b"")
    assert decoded(raw, from_client=client, step=step) == [Message(Opcode.BINARY, data)]
    assert masked(masked(data, MASK), MASK) == data


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("810548656c6c6f", 1002),  # not masked
        ("c18100000000ff", 1002),  # a reserved bit
        ("838100000000ff", 1002),  # opcode 3
        ("098100000000ff", 1002),  # a ping in fragments
        ("89fe007e00000000", 1002),  # a ping of 126 bytes
        ("808100000000ff", 1002),  # a fragment of nothing
        ("01810000000041" + "81810000000041", 1002),  # a message amid another
        ("82ff7fffffffffffffff00000000", 1009),
        ("02fe0300" + "00" * 772 + "80fe0200" + "00" * 516, 1009),  # too large in sum
    ],
)
def test_what_breaks_the_protocol(raw: str, code: int) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decoded(bytes.fromhex(raw), from_client=True, largest=1000)
    assert caught.value.code == code


def test_garbage_is_malformed_and_nothing_worse() -> None:
    rng = random.Random(5)
    refused = 0
    for _ in range(3000):
        try:
            decoded(rng.randbytes(rng.randrange(120)), from_client=rng.random() < 0.5, step=rng.randrange(1, 30))
        except MalformedMessage:
            refused += 1
    assert refused > 1000


class Paper:
    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.written = b""

    async def read(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        self.written += data


async def test_a_connection_answers_pings_and_closes_once() -> None:
    wire = Paper(
        encode(Opcode.PING, b"are you there", MASK) + encode(Opcode.BINARY, b"yes", MASK),
        encode(Opcode.CLOSE, b"\x03\xe8", MASK),
    )
    connection = Connection(wire)
    assert await connection.receive() == Message(Opcode.BINARY, b"yes")
    assert await connection.receive() is None
    await connection.close()
    await connection.send(b"too late")
    assert decoded(wire.written) == [Message(Opcode.PONG, b"are you there"), Message(Opcode.CLOSE, b"\x03\xe8")]


async def test_a_client_that_breaks_the_protocol_is_told_and_left() -> None:
    wire = Paper(b"\xff\xff garbage")
    connection = Connection(wire)
    assert await connection.receive() is None
    assert decoded(wire.written) == [Message(Opcode.CLOSE, (1002).to_bytes(2, "big"))]
    assert await Connection(Paper()).receive() is None
