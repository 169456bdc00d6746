"""One HTTP GET to a container, for probes and for hooks: spoken by hand, because it is one request on a connection of its
own, and its words are what people search for.

Upstream's ways (pkg/probe/http): no proxy, no keep-alive, certificates unverified, redirects followed ten times and on the
same host only, at most 10 KiB of the body. The words of failures are those of Go's net/http, without the local port: an
Event that differs each time is not counted up but written again.
"""

import asyncio
import contextlib
import functools
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from kube.pods import Container, HTTPGetAction
from kube.ports import port_of
from kube.version import MAJOR, MINOR

BODY = 10 * 1024  # bytes
HEAD = 64 * 1024  # bytes of headers
REDIRECTS = 10
FOLLOWED = (301, 302, 303, 307, 308)
_ODD = re.compile(r"[^!-~]")  # what must not stand in a request line as it is
_END = re.compile(rb"\r?\n\r?\n")  # of headers
_STATUS = re.compile(r"[0-9]{3}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")


class NoAnswer(Exception):
    """Why there is none; says of the server's side that it is at fault."""


class NotTls(NoAnswer):
    """A plain HTTP server answered an https request."""


class BodyMissing(Exception):
    """The server answered, and the body did not come in time: neither good nor bad."""


class NoPort(Exception):
    """A port that has no number."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str


def port_number(port: int | str, container: Container) -> int:
    """A number, or the name of one of the container's ports; raises NoPort."""
    number = (
        port if isinstance(port, int) else next((p.container_port for p in container.ports if p.name == port), None)
    )
    if number is None:
        number = port_of(str(port))
    if number is None:
        raise NoPort(f"port {port} not found in container {container.name}")
    if not 0 < number < 65536:
        raise NoPort(f"invalid port number: {number}")
    return number


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# --- connections ------------------------------------------------------------------------------------------------------


@functools.cache
def _resolvers() -> ThreadPoolExecutor:
    """Threads of its own: a name server that hangs must hold up nothing but the probes that ask it."""
    return ThreadPoolExecutor(4, thread_name_prefix="probe-names")


@functools.cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # nothing is verified, so weak keys weaken nothing
    return context


@functools.lru_cache(maxsize=1024)
def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _literal(host: str) -> str:
    if _is_address(host):
        return host
    look = functools.partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.get_running_loop().run_in_executor(_resolvers(), look)
    except (OSError, ValueError):  # a host that is no name at all: too long a label, a zero byte
        raise NoAnswer(f"dial tcp: lookup {host}: no such host") from None
    return str(found[0][4][0])


async def dial(host: str, port: int, *, tls: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises NoAnswer; abort the writer's transport in the end: a close would wait for a peer that may hang."""
    try:
        ip = await _literal(host)
        if not tls:
            return await asyncio.open_connection(ip, port)
        name = None if ip == host else host
        return await asyncio.open_connection(ip, port, ssl=_unverified(), server_hostname=name or "")
    except ssl.SSLError as error:
        if error.reason in _NOT_TLS:
            raise NotTls("http: server gave HTTP response to HTTPS client") from None
        raise NoAnswer(f"tls: {(error.reason or str(error)).lower().replace('_', ' ')}") from None
    except ConnectionResetError as error:  # in the TLS handshake, or a connection that was reset at once
        raise NoAnswer(f"read tcp {address(host, port)}: read: {cause(error)}") from None
    except OSError as error:
        raise NoAnswer(f"dial tcp {address(host, port)}: connect: {cause(error)}") from None


def cause(error: OSError) -> str:
    """The system's own word: asyncio puts another in its place."""
    return (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__).lower()


# --- a request --------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _headers(action: HTTPGetAction, purpose: str) -> tuple[str, str]:
    """The Host that was asked for ("" = the URL's), and the other headers as they are sent; raises NoAnswer for what HTTP
    cannot carry."""
    lines = [(header.name, header.value) for header in action.http_headers]
    for name, value in lines:
        if not _TOKEN.fullmatch(name):
            raise NoAnswer(f"net/http: invalid header field name {name!r}")
        if any((c < " " and c != "\t") or c == "\x7f" for c in value):
            raise NoAnswer(f'net/http: invalid header field value for "{name}"')
    host = _first(lines, "host") or ""
    agent, accept = _first(lines, "user-agent"), _first(lines, "accept")
    own = ("host", "user-agent", "connection", "content-length", "transfer-encoding")
    kept = [(n, v) for n, v in lines if n.lower() not in own and (n.lower() != "accept" or accept)]
    if agent is None:
        agent = f"kube-{purpose}/{MAJOR}.{MINOR}"
    kept = ([("User-Agent", agent)] if agent else []) + kept + ([("Accept", "*/*")] if accept is None else [])
    return host, "".join(f"{name}: {value}\r\n" for name, value in kept)


def _first(lines: Iterable[tuple[str, str]], name: str) -> str | None:
    return next((value for known, value in lines if known.lower() == name), None)


@functools.lru_cache(maxsize=1024)
def _url(action: HTTPGetAction, host: str, port: int) -> str:
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    path = _ODD.sub(lambda odd: "".join(f"%{byte:02X}" for byte in odd[0].encode()), path)
    return f"{action.scheme.lower() or 'http'}://{address(host, port)}{path}"


async def fetch(
    action: HTTPGetAction, container: Container, pod_ip: str, purpose: str, *, timeout: float | None
) -> Answer:
    """The answer to the last of the redirects. Raises NoPort, NoAnswer, BodyMissing."""
    port, host = port_number(action.port, container), action.host or pod_ip
    way = _Way(_url(action, host, port))
    try:
        named, lines = _headers(action, purpose)
        async with asyncio.timeout(timeout):
            return await _followed(way, named, lines)
    except TimeoutError:
        if way.answered:
            late = "context deadline exceeded (Client.Timeout or context cancellation while reading body)"
            raise BodyMissing(late) from None
        waited = "context deadline exceeded" if way.dialed else f"dial tcp {address(host, port)}: i/o timeout"
        raise NoAnswer(f'Get "{way.url}": {waited} (Client.Timeout exceeded while awaiting headers)') from None
    except ValueError as error:  # of a host, or of a Location, that makes no URL
        raise NoAnswer(f'Get "{way.url}": {error}') from None
    except NoAnswer as error:
        raise type(error)(f'Get "{way.url}": {error}') from None


@dataclass(slots=True)
class _Way:
    """How far a request got."""

    url: str
    dialed: bool = False
    answered: bool = False


async def _followed(way: _Way, named: str, lines: str) -> Answer:
    for _ in range(REDIRECTS):
        status, location, body = await _exchange(way, named, lines)
        if status not in FOLLOWED or not location:
            return Answer(status, body)
        following = urljoin(way.url, location)
        if urlsplit(following).hostname != urlsplit(way.url).hostname or not following.startswith("http"):
            return Answer(status, body)
        named = named if not urlsplit(location).scheme else ""
        way.url = following
    raise NoAnswer(f"stopped after {REDIRECTS} redirects")


async def _exchange(way: _Way, named: str, lines: str) -> tuple[int, str, str]:
    """Status, Location and the beginning of the body."""
    way.dialed = way.answered = False
    url = urlsplit(way.url)
    tls = url.scheme == "https"
    try:
        host, port = url.hostname or "", url.port or (443 if tls else 80)
    except ValueError:
        raise NoAnswer(f"invalid URL {url.geturl()!r}") from None
    reader, writer = await dial(host, port, tls=tls)
    way.dialed = True
    target = (url.path or "/") + (f"?{url.query}" if url.query else "")
    host_line = f"Host: {named or url.netloc.rpartition('@')[2]}"
    try:
        writer.write(f"GET {target} HTTP/1.1\r\n{host_line}\r\n{lines}Connection: close\r\n\r\n".encode())
        status, answered, spare = await _head(reader, b"")
        while 100 <= status < 200 and status != 101:  # comes before the answer
            status, answered, spare = await _head(reader, spare)
        way.answered = True
        return status, answered.get("location", ""), await _body(reader, answered, spare)
    except EOFError:
        raise NoAnswer("EOF") from None
    except ssl.SSLError as error:
        raise NoAnswer(f"remote error: tls: {(error.reason or str(error)).lower().replace('_', ' ')}") from None
    except OSError as error:
        raise NoAnswer(f"read tcp {address(host, port)}: read: {cause(error)}") from None
    finally:
        writer.transport.abort()


async def _head(reader: asyncio.StreamReader, spare: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, and what has come of the body; `spare` is what had come before."""
    while not (end := _END.search(spare)):
        if len(spare) > HEAD:
            raise NoAnswer("net/http: HTTP/1.x transport connection broken: too many headers")
        piece = await reader.read(BODY)
        if not piece:
            if spare and not spare.startswith(b"HTTP/"):
                break
            raise EOFError
        spare += piece
    first, *lines = spare[: end.start() if end else len(spare)].splitlines() or [b""]
    words = first.decode("latin-1").split(None, 2)
    if not end or len(words) < 2 or not words[0].startswith("HTTP/") or not _STATUS.fullmatch(words[1]):
        shown = first[:64].decode(errors="replace").strip()
        raise NoAnswer(f'net/http: HTTP/1.x transport connection broken: malformed HTTP response "{shown}"')
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        found.setdefault(name.strip().lower(), value.strip())
    return int(words[1]), found, spare[end.end() :]


async def _body(reader: asyncio.StreamReader, head: dict[str, str], body: bytes) -> str:
    """Its first 10 KiB; what there was, when the connection ends early."""
    chunked = "chunked" in head.get("transfer-encoding", "").lower()
    length = head.get("content-length", "")
    wanted = 2 * BODY if chunked else min(int(length[:20]), BODY) if length.isascii() and length.isdigit() else BODY
    with contextlib.suppress(OSError):
        while len(body) < wanted and not (chunked and body.endswith(b"0\r\n\r\n")):
            piece = await reader.read(BODY)
            if not piece:
                break
            body += piece
    return (_joined(body) if chunked else body)[: min(wanted, BODY)].decode(errors="replace")


def _joined(chunks: bytes) -> bytes:
    """Of a body that comes in chunks, the chunks that have come."""
    out, at = b"", 0
    while (line := chunks.find(b"\n", at)) > 0:
        size = chunks[at:line].split(b";")[0].strip()
        try:
            length = int(size, 16)
        except ValueError:
            break
        if length <= 0:
            break
        out += chunks[line + 1 : line + 1 + length]
        at = line + 1 + length + 2
    return out
