"""The calls that last or must not wait for a thread, over dockerd's socket in the event loop: ping, events, pull.

The `docker` package would hold a thread for each, without a time limit it could be told; here they are cancelled like any
other coroutine.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp

from kubelet.docker.engine import refusal
from kubelet.runtime import RegistryAuth, RuntimeRefused, RuntimeUnavailable

_LINE = 1 << 20  # bytes: an event carries all labels of its container


class Wire:
    def __init__(self, socket_path: str, *, silence: float = 120.0) -> None:
        """`silence`: seconds without a byte after which a pull counts as hung."""
        self._path = socket_path
        self._silence = silence
        self._session: aiohttp.ClientSession | None = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.UnixConnector(path=self._path, limit=0)
            self._session = aiohttp.ClientSession("http://docker", connector=connector, read_bufsize=_LINE)
        return self._session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ping(self, timeout: float) -> None:
        """RuntimeUnavailable when dockerd does not answer within `timeout` seconds."""
        try:
            async with self._opened().get("/_ping", timeout=aiohttp.ClientTimeout(total=timeout)) as response:
                if response.status != 200:
                    raise RuntimeUnavailable(f"docker: {self._path} answers {response.status}")
        except TimeoutError:
            raise RuntimeUnavailable(f"docker: {self._path}: no answer within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise RuntimeUnavailable(f"docker: {self._path}: {_words(error)}") from error

    async def cgroup_driver(self, timeout: float) -> str:
        """`cgroupfs` or `systemd`."""
        try:
            async with self._opened().get("/info", timeout=aiohttp.ClientTimeout(total=timeout)) as response:
                return str(json.loads(await response.read())["CgroupDriver"])
        except TimeoutError:
            raise RuntimeUnavailable(f"docker: {self._path}: no answer within {timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError) as error:
            raise RuntimeUnavailable(f"docker: {self._path}: {_words(error)}") from error

    async def events(self, labels: Sequence[str]) -> AsyncIterator[dict[str, Any] | None]:
        """None once connected, then container events as they happen; ends or raises RuntimeUnavailable with the stream."""
        filters = json.dumps({"type": ["container"], "label": list(labels)})
        forever = aiohttp.ClientTimeout(total=None, sock_connect=10)
        try:
            async with self._opened().get("/events", params={"filters": filters}, timeout=forever) as response:
                if response.status != 200:
                    raise RuntimeUnavailable(f"docker: events: {response.status} {(await response.text())[:200]}")
                yield None
                async for line in response.content:
                    if line.strip():
                        yield json.loads(line)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RuntimeUnavailable(f"docker: events: {_words(error)}") from error

    async def pull(self, image: str, auth: RegistryAuth | None) -> None:
        """RuntimeRefused with the registry's words, RuntimeUnavailable after `silence` seconds without a byte."""
        repository, tag = split_reference(image)
        credentials = {"username": auth.username, "password": auth.password} if auth else {}
        headers = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(credentials).encode()).decode()}
        patient = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self._silence)
        parameters = {"fromImage": repository, "tag": tag}
        try:
            async with self._opened().post(
                "/images/create", params=parameters, headers=headers, timeout=patient
            ) as response:
                if response.status != 200:
                    text = await response.text()
                    raise _pull_refusal(response.status, text, image)
                async for line in response.content:
                    progress = json.loads(line) if line.strip() else {}
                    if "error" in progress:
                        raise RuntimeRefused(str(progress["error"]))
        except TimeoutError:
            raise RuntimeUnavailable(f"docker: pull {image}: nothing for {self._silence:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise RuntimeUnavailable(f"docker: pull {image}: {_words(error)}") from error


def _pull_refusal(status: int, text: str, image: str) -> Exception:
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip() or f"status {status}"
    # A registry that cannot be reached is the pull's failure, not dockerd's: 5xx too belongs into the pod's status.
    found = refusal(status, message, f"docker: pull {image}")
    return RuntimeRefused(message) if isinstance(found, RuntimeUnavailable) else found


def split_reference(image: str) -> tuple[str, str]:
    """("registry:5000/name", "tag") of an image reference; `latest` where it names neither tag nor digest."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    head, colon, tag = name.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return name, "latest"


def _words(error: BaseException) -> str:
    inner = getattr(error, "os_error", error)
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
