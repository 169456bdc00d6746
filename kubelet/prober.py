"""One attempt of a probe: a command in the container, an HTTP GET, a TCP connect; spoken from this node to the pod's
address.
 The words are upstream's, because people search for them. HTTP is spoken by hand: a probe is one request on a
connection of its own, TLS unverified, the body of no interest beyond 10 KiB, redirects followed on the same host only
(another host counts as healthy).
"""

import asyncio
import ssl
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from kube.errors import Retry
from kube.pods import Container, HTTPGetAction, TCPSocketAction
from kube.version import MAJOR, MINOR
from kubelet.probes import Outcome, Target
from kubelet.runtime import ExecTimeout, Runtime, RuntimeRefused

BODY = 10 * 1024
REDIRECTS = 10


def port_number(port: int | str, container: Container) -> int | None:
    """A number, or the name of one of the container's ports."""
    if isinstance(port, int):
        return port
    named = next((p.container_port for p in container.ports if p.name == port), None)
    return named if named is not None else int(port) if port.isdigit() else None


class Prober:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def attempt(self, target: Target) -> Outcome:
        probe, timeout = target.probe, float(max(1, target.probe.timeout_seconds))
        if probe.exec is not None:
            return await self._exec(target, timeout)
        if probe.http_get is not None:
            return await _http(target, probe.http_get, timeout)
        if probe.tcp_socket is not None:
            return await _tcp(target, probe.tcp_socket, timeout)
        return Outcome(None, "grpc probes are not supported by this kubelet yet")

    async def _exec(self, target: Target, timeout: float) -> Outcome:
        assert target.probe.exec is not None
        try:
            result = await self._runtime.exec_sync(target.container_id, target.probe.exec.command, timeout)
        except ExecTimeout:
            return Outcome(False, f"command timed out: {list(target.probe.exec.command)} timed out after {timeout:g}s")
        except (Retry, RuntimeRefused) as error:
            return Outcome(None, str(error))
        text = (result.stdout + result.stderr)[:BODY].decode(errors="replace")
        return Outcome(result.exit_code == 0, text)


async def _tcp(target: Target, action: TCPSocketAction, timeout: float) -> Outcome:
    port = port_number(action.port, target.container)
    if port is None:
        return Outcome(False, f"couldn't find port: {action.port} in container {target.container.name}")
    host = action.host or target.pod_ip
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return Outcome(False, f"dial tcp {host}:{port}: i/o timeout")
    except OSError as error:
        return Outcome(False, f"dial tcp {host}:{port}: connect: {_words(error)}")
    writer.close()
    return Outcome(True)


async def _http(target: Target, action: HTTPGetAction, timeout: float) -> Outcome:
    port = port_number(action.port, target.container)
    if port is None:
        return Outcome(False, f"couldn't find port: {action.port} in container {target.container.name}")
    host = action.host or target.pod_ip
    path = action.path if action.path.startswith("/") else "/" + action.path
    url = f"{action.scheme.lower()}://{host}:{port}{path}"
    headers = {header.name: header.value for header in action.http_headers}
    try:
        async with asyncio.timeout(timeout):
            for _ in range(REDIRECTS + 1):
                code, location, body = await get(url, headers)
                if not (300 <= code < 400 and location):
                    break
                following = urljoin(url, location)
                if urlsplit(following).hostname != urlsplit(url).hostname:
                    return Outcome(True, f"Probe terminated redirects, Response body: {body}")
                url = following
            else:
                return Outcome(False, f'Get "{url}": stopped after {REDIRECTS} redirects')
    except TimeoutError:
        waiting = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return Outcome(False, f'Get "{url}": {waiting}')
    except ConnectionRefusedError:
        return Outcome(False, f'Get "{url}": dial tcp {host}:{port}: connect: connection refused')
    except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
        return Outcome(False, f'Get "{url}": {_words(error)}')
    if 200 <= code < 400:
        return Outcome(True, body)
    return Outcome(False, f"HTTP probe failed with statuscode: {code}")


async def get(url: str, headers: Mapping[str, str]) -> tuple[int, str, str]:
    """Status, Location and the beginning of the body."""
    parts = urlsplit(url)
    tls = _unverified() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    try:
        lines = {
            "Host": parts.netloc,
            "User-Agent": f"kube-probe/{MAJOR}.{MINOR}",
            "Accept": "*/*",
            "Connection": "close",
        }
        for name, value in headers.items():
            lines.pop(next((known for known in lines if known.lower() == name.lower()), ""), None)
            if value or name.lower() not in ("accept", "user-agent"):
                lines[name] = value
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode())
        await writer.drain()
        status = (await reader.readuntil(b"\n")).decode("latin-1").split(None, 2)
        if len(status) < 2 or not status[0].startswith("HTTP/") or not status[1].isdigit():
            raise ValueError("malformed HTTP response")
        location = ""
        while line := (await reader.readuntil(b"\n")).decode("latin-1").strip():
            name, _, value = line.partition(":")
            if name.lower() == "location":
                location = value.strip()
        body = await reader.read(BODY) if int(status[1]) >= 300 else b""
        return int(status[1]), location, body.decode(errors="replace")
    finally:
        writer.close()


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _words(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, EOFError):
        return "EOF"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
