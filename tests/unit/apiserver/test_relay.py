"""The relay to kubelets: what is passed on, what is said when that fails, and kubelets that speak only SPDY."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from apiserver.authentication import User
from apiserver.errors import StatusError
from apiserver.http.exchange import Answer, Reply, Request, Takeover
from apiserver.outward import Outward
from apiserver.relay import Relay, Trust, logs
from apiserver.relay.kubelets import container_of, kubelet_of
from apiserver.relay.upgrades import head_of, stream_query, upgrade_headers
from kube import certificates
from kube.spdy import Session, Stream
from kube.websocket import Decoder, Message, Opcode, encode
from tests.unit.kube.test_spdy import read_all

MASK = b"\x01\x02\x03\x04"
POD = {
    "metadata": {"name": "p", "namespace": "ns"},
    "spec": {"nodeName": "n", "containers": [{"name": "c"}]},
}


def test_exec_options_in_the_kubelets_words() -> None:
    raw = "command=sh&command=-c&command=echo+a%26b&container=c&stdin=true&stdout=true&tty=false"
    assert stream_query(raw) == "command=sh&command=-c&command=echo+a%26b&input=1&output=1"
    assert stream_query("ports=80,81&ports=82") == "port=80&port=81&port=82"


def test_only_the_handshake_is_forwarded_and_each_protocol_of_it() -> None:
    given = [("Upgrade", "SPDY/3.1"), ("Authorization", "secret"), ("Host", "api"), ("Cookie", "secret")]
    versions = [("X-Stream-Protocol-Version", f"v{n}.channel.k8s.io") for n in (4, 3)]
    head = head_of("POST", "/exec", "10.0.0.1:1", upgrade_headers(CIMultiDict([*given, *versions]))).decode()
    assert head == (
        "POST /exec HTTP/1.1\r\nHost: 10.0.0.1:1\r\nUpgrade: SPDY/3.1\r\n"
        "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\n"
    )
    assert head_of("GET", "/a", "h", [("x", "y\r\nEvil: 1")]).count(b"\r\n") == 4


def test_where_the_kubelet_is() -> None:
    addresses = [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "fd00::1"}]
    node = {"status": {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}}
    assert kubelet_of(POD, node).authority == "[fd00::1]:1"
    with pytest.raises(StatusError, match='nodes "n" not found'):
        kubelet_of(POD, None)
    with pytest.raises(StatusError, match="no preferred addresses found for node n"):
        kubelet_of(POD, {"status": {}})
    with pytest.raises(StatusError, match="pod p does not have a host assigned"):
        kubelet_of({"metadata": {"name": "p"}, "spec": {}}, node)


def test_which_container_is_meant() -> None:
    def pod(names: str, init: str = "", default: str = "") -> dict[str, Any]:
        spec = {
            "containers": [{"name": n} for n in names.split()],
            "initContainers": [{"name": n} for n in init.split()],
        }
        notes = {"annotations": {"kubectl.kubernetes.io/default-container": default}} if default else {}
        return {"metadata": {"name": "p", **notes}, "spec": spec}

    assert container_of(pod("a"), "") == "a"
    assert container_of(pod("a b", default="b"), "") == "b"
    assert container_of(pod("a", init="i"), "i") == "i"
    with pytest.raises(StatusError, match=r"container name must be specified for pod p, choose one of: \[a b\]$"):
        container_of(pod("a b"), "")
    with pytest.raises(StatusError, match=r"choose one of: \[a b\] or one of the init containers: \[i\]$"):
        container_of(pod("a b", init="i"), "")
    with pytest.raises(StatusError, match="container x is not valid for pod p"):
        container_of(pod("a"), "x")


def test_what_may_be_asked_of_a_log() -> None:
    given = {"follow": "true", "tailLines": "0", "limitBytes": "1", "container": "c", "pretty": "1", "stream": "All"}
    assert logs.asked(given, "p") == {"follow": "true", "tailLines": "0", "limitBytes": "1"}
    assert logs.asked({"stream": "Stderr", "sinceTime": "2026-01-01T00:00:00Z"}, "p")["stream"] == "Stderr"


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ({"tailLines": "-1"}, 422, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ({"limitBytes": "0"}, 422, "limitBytes: Invalid value: 0: must be greater than 0"),
        ({"sinceSeconds": "0"}, 422, "sinceSeconds: Invalid value: 0: must be greater than 0"),
        ({"sinceSeconds": "5", "sinceTime": "2026-01-01T00:00:00Z"}, 422, "at most one of `sinceTime` or"),
        ({"stream": "Stdin"}, 422, 'stream: Unsupported value: "Stdin"'),
        ({"stream": "Stdout", "tailLines": "1"}, 422, "`tailLines` and specific `stream` are mutually exclusive"),
        ({"tailLines": "x"}, 400, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ({"sinceTime": "yesterday"}, 400, "not an RFC 3339 time"),
    ],
)
def test_what_may_not(query: dict[str, str], code: int, words: str) -> None:
    with pytest.raises(StatusError) as caught:
        logs.asked(query, "p")
    assert caught.value.code == code
    assert words in caught.value.message


# --- a stock kubelet, which speaks SPDY only --------------------------------------------------------------------------


@dataclass
class Kubelet:
    """`answer` is given to every WebSocket, `spdy` serves the streams of a SPDY session."""

    answer: bytes = b"HTTP/1.1 403 Forbidden\r\n\r\nrequested protocol(s) are not supported"
    port: int = 0
    heads: list[str] = field(default_factory=list)
    serve: Callable[[Session], Any] | None = None

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if self.serve is None or "SPDY" not in head.partition("Upgrade:")[2].partition("\r\n")[0]:
                writer.write(self.answer)
                return
            version = head.partition("X-Stream-Protocol-Version: ")[2].partition("\r\n")[0]
            writer.write(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"
                f"X-Stream-Protocol-Version: {version}\r\n\r\n".encode()
            )
            session = Session(Wire(reader, writer), server=True)
            serve = self.serve
            await session.run(lambda: serve(session))
        finally:
            writer.close()


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(65536)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()


class Client:
    """`exchange.Duplex` whose other end speaks WebSocket."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.head = b""
        self.messages: list[Message] = []
        self._decoder = Decoder(from_client=False)
        self.came = asyncio.Event()

    async def read(self) -> bytes:
        return await self.sent.get()

    async def write(self, data: bytes) -> None:
        if not self.head:
            self.head = data
            return
        self.messages += self._decoder.feed(data)
        self.came.set()

    def say(self, channel: int, data: bytes) -> None:
        self.sent.put_nowait(encode(Opcode.BINARY, bytes([channel]) + data, MASK))

    def on(self, channel: int) -> bytes:
        found = [m.data[1:] for m in self.messages if m.opcode == Opcode.BINARY and m.data[:1] == bytes([channel])]
        return b"".join(found)

    async def until(self, channel: int, data: bytes) -> None:
        while data not in self.on(channel):
            self.came.clear()
            await self.came.wait()


@asynccontextmanager
async def relaying(kubelet: Kubelet, folder: Path) -> AsyncIterator[Relay]:
    authority = certificates.authority("ca")
    pair = certificates.issue(authority, "kubelet", sans=["127.0.0.1"])
    (folder / "pair.pem").write_bytes(pair.key + pair.certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "pair.pem")
    server = await asyncio.start_server(kubelet.accept, "127.0.0.1", 0, ssl=tls)
    kubelet.port = server.sockets[0].getsockname()[1]
    node = {
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet.port}},
        }
    }
    ours = ssl.create_default_context(cadata=authority.certificate.decode())
    async with Outward() as session:
        yield Relay(lambda _name: node, Trust(ours, ours), session)
    server.close()


async def nothing() -> bytes:
    return b""


def request(query: str, protocol: str, upgrade: str = "websocket") -> Request:
    headers = CIMultiDict({"Upgrade": upgrade, "Connection": "Upgrade", "Sec-WebSocket-Key": "a2V5"})
    headers["Sec-WebSocket-Protocol"] = protocol
    return Request("GET", "/x", dict(p.split("=") for p in query.split("&") if p), query, headers, nothing, User("me"))


async def taken(reply: Reply, client: Client) -> None:
    assert isinstance(reply, Takeover)
    async with asyncio.timeout(10):
        await reply.run(client)


async def shouting(session: Session) -> None:
    """A command that repeats its input in capitals, counts its terminal's sizes, and exits with 3."""
    streams: dict[str, Stream] = {}
    while len(streams) < 4:
        stream = await session.accept()
        assert stream is not None
        streams[stream.headers["streamtype"]] = stream
    while data := await streams["stdin"].read():
        await streams["stdout"].write(data.upper())
    await streams["stderr"].write(b"done")
    status = {"status": "Failure", "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}
    await streams["error"].write(json.dumps(status).encode())


async def test_a_command_is_translated_for_a_stock_kubelet(tmp_path: Path) -> None:
    kubelet, client = Kubelet(serve=shouting), Client()
    query = "command=cat&stdin=true&stdout=true&stderr=true"
    async with relaying(kubelet, tmp_path) as relay:
        reply = await relay.upgrade("exec", POD, request(query, "v5.channel.k8s.io,v4.channel.k8s.io"))
        client.say(0, b"hello ")
        client.say(0, b"world")
        client.say(255, b"\0")
        await taken(reply, client)
    assert b"Sec-WebSocket-Protocol: v5.channel.k8s.io" in client.head
    assert (client.on(1), client.on(2)) == (b"HELLO WORLD", b"done")
    assert json.loads(client.on(3))["details"]["causes"][0]["message"] == "3"
    assert client.messages[0] == Message(Opcode.BINARY, b"\x01")
    assert client.messages[-1].opcode is Opcode.CLOSE
    first, second = (head.split("\r\n")[0] for head in kubelet.heads)
    assert first == "GET /exec/ns/p/c?command=cat&input=1&output=1&error=1 HTTP/1.1"
    assert second == first.replace("GET", "POST")


async def test_a_client_found_gone_when_it_is_answered_is_no_failure(tmp_path: Path) -> None:
    class Gone(Client):
        async def write(self, data: bytes) -> None:
            if b"HELLO" in data:
                raise TimeoutError("no acknowledgement from the client")
            await super().write(data)

    kubelet, client = Kubelet(serve=shouting), Gone()
    async with relaying(kubelet, tmp_path) as relay:
        asked = request("command=cat&stdin=true&stdout=true&stderr=true", "v5.channel.k8s.io")
        client.say(0, b"hello")
        await taken(await relay.upgrade("exec", POD, asked), client)
    assert client.messages[-1].opcode is Opcode.CLOSE


async def test_a_client_that_leaves_takes_the_translation_along(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def endless(session: Session) -> None:
        while stream := await session.accept():
            if stream.headers["streamtype"] == "stdout":
                await stream.write(b"working")
        ended.set()

    kubelet, client = Kubelet(serve=endless), Client()
    async with relaying(kubelet, tmp_path) as relay:
        reply = await relay.upgrade("attach", POD, request("stdin=true&stdout=true", "v5.channel.k8s.io"))
        async with asyncio.TaskGroup() as group:
            group.create_task(taken(reply, client))
            async with asyncio.timeout(10):
                await client.until(1, b"working")
                client.sent.put_nowait(b"")
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_tunnel_is_unwrapped_for_a_stock_kubelet(tmp_path: Path) -> None:
    async def echo(session: Session) -> None:
        while stream := await session.accept():
            await stream.write(b"got " + await read_all(stream))
            await stream.close()

    class Tunnel:
        """SPDY inside the messages, from the client's end."""

        def __init__(self, client: Client) -> None:
            self.client, self.decoder, self.inbound = client, Decoder(from_client=False), asyncio.Queue[bytes]()

        async def read(self) -> bytes:
            return await self.inbound.get()

        async def write(self, data: bytes) -> None:
            self.client.sent.put_nowait(encode(Opcode.BINARY, data, MASK))

    class Tunnelled(Client):
        async def write(self, data: bytes) -> None:
            if not self.head:
                self.head = data
                return
            for message in self._decoder.feed(data):
                tunnel.inbound.put_nowait(message.data if message.opcode == Opcode.BINARY else b"")

    kubelet, client = Kubelet(serve=echo), Tunnelled()
    tunnel = Tunnel(client)
    async with relaying(kubelet, tmp_path) as relay:
        reply = await relay.upgrade("portForward", POD, request("", "SPDY/3.1+portforward.k8s.io"))
        session = Session(tunnel, server=False)

        async def body() -> None:
            stream = await session.open((("streamtype", "data"),))
            await stream.write(b"this")
            await stream.close()
            assert await read_all(stream) == b"got this"

        async with asyncio.TaskGroup() as group:
            group.create_task(taken(reply, client))
            await session.run(body)
            client.sent.put_nowait(b"")
    assert b"Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io" in client.head
    assert "X-Stream-Protocol-Version: portforward.k8s.io" in kubelet.heads[1]


@pytest.mark.parametrize("upgrade", ["websocket", "SPDY/3.1"])
async def test_a_refusal_is_the_clients_in_the_kubelets_own_words(tmp_path: Path, upgrade: str) -> None:
    answer = b'HTTP/1.1 500 Internal\r\nContent-Length: 25\r\n\r\ncontainer not found ("c")\n'
    async with relaying(Kubelet(answer), tmp_path) as relay:
        reply = await relay.upgrade("exec", POD, request("command=x&stdout=true", "v5.channel.k8s.io", upgrade))
    assert isinstance(reply, Answer)
    assert (reply.code, reply.body, reply.content_type[:10]) == (500, b'container not found ("c")', "text/plain")


async def test_a_kubelet_that_answers_nonsense_or_nothing(tmp_path: Path) -> None:
    for answer in (b"", b"nonsense\r\n\r\n", b"\r\n\r\n"):
        async with relaying(Kubelet(answer), tmp_path) as relay:
            with pytest.raises(StatusError, match=r"cannot reach the kubelet at 127\.0\.0\.1:"):
                await relay.upgrade("exec", POD, request("command=x&stdout=true", "v5.channel.k8s.io"))


async def test_a_request_without_an_upgrade_is_refused(tmp_path: Path) -> None:
    async with relaying(Kubelet(), tmp_path) as relay:
        with pytest.raises(StatusError, match="Upgrade request required"):
            await relay.upgrade("exec", POD, request("command=x&stdout=true", "", ""))
