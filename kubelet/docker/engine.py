"""The `docker` package at arm's length: blocking calls in bounded, named threads, each with a time limit.

A hung dockerd must never hang the kubelet. Three walls see to that: a call's caller stops waiting at the limit
(`RuntimeUnavailable`), the thread comes back when the socket's own read timeout passes, and calls that find all threads
taken wait in line under their own limit. `stuck` tells status() about calls that are over theirs. What lasts or streams
(pulls, events, exec) is not for threads at all: see wire.py and streams.py.

The client is made at the first call, because it asks dockerd for its API version: no dockerd yet is a refusal like any
other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import docker.errors
import requests.exceptions
import urllib3.exceptions
from docker.api.client import APIClient
from docker.constants import DEFAULT_DOCKER_API_VERSION

from kubelet.docker.transport import Adapter
from kubelet.runtime import NotFound, Observer, RuntimeRefused, RuntimeUnavailable, unobserved

T = TypeVar("T")

WORKERS = 8


class Conflict(RuntimeRefused):
    """409: a name in use, a removal in progress, a container that does not run."""


class Engine:
    def __init__(self, socket_path: str, *, timeout: float = 120.0, observe: Observer = unobserved) -> None:
        self.socket_path = socket_path
        self.timeout = timeout
        self._observe = observe
        self._client: APIClient | None = None
        self._making = threading.Lock()
        self._calls = ThreadPoolExecutor(WORKERS, thread_name_prefix="docker-call")
        self._numbers = itertools.count()
        self._running: dict[int, tuple[str, float]] = {}

    async def call(
        self, operation: str, subject: str, function: Callable[[APIClient], T], *, timeout: float | None = None
    ) -> T:
        """`function` in a thread. RuntimeUnavailable, NotFound, Conflict or RuntimeRefused; see `kubelet.runtime`."""
        started = time.monotonic()
        failed = True
        limit = timeout or self.timeout
        what = f"docker: {operation.replace('_', ' ')} {subject}".rstrip()
        try:
            async with asyncio.timeout(limit):
                result = await asyncio.get_running_loop().run_in_executor(self._calls, self._work, operation, function)
            failed = False
        except TimeoutError:
            raise RuntimeUnavailable(f"{what}: no answer within {limit:g} s") from None
        except docker.errors.APIError as error:
            raise refusal(error.status_code or 0, str(error.explanation or error), what) from error
        except (
            docker.errors.DockerException,
            requests.exceptions.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as error:
            raise RuntimeUnavailable(f"{what}: {_cause(error)} (socket {self.socket_path})") from error
        finally:
            self._observe(operation, time.monotonic() - started, failed)
        return result

    async def ask(self, operation: str, subject: str, function: Callable[[APIClient], T]) -> T:
        """`call`, of what no pod's author is to blame for: what dockerd refuses there is worth another try. RuntimeUnavailable
        and NotFound."""
        try:
            return await self.call(operation, subject, function)
        except NotFound:
            raise
        except RuntimeRefused as error:
            what = f"{operation.replace('_', ' ')} {subject}".rstrip()
            raise RuntimeUnavailable(f"docker: {what}: {error.message}") from error

    def _work(self, operation: str, function: Callable[[APIClient], T]) -> T:
        number = next(self._numbers)
        self._running[number] = (operation, time.monotonic())
        try:
            return function(self._connected())
        finally:
            del self._running[number]

    def _connected(self) -> APIClient:
        with self._making:
            if self._client is None:
                with contextlib.closing(self._made(DEFAULT_DOCKER_API_VERSION)) as stranger:
                    spoken = str(stranger.version(api_version=False)["ApiVersion"])
                self._client = self._made(spoken)
            return self._client

    def _made(self, version: str) -> APIClient:
        client = APIClient(f"unix://{self.socket_path}", version=version, timeout=math.ceil(self.timeout))
        client.mount("http+docker://", Adapter(self.socket_path, timeout=self.timeout, connections=WORKERS))
        return client

    def stuck(self) -> str:
        """The oldest call that is over its limit, in words; "" when there is none."""
        now = time.monotonic()
        for operation, since in list(self._running.values()):
            if now - since > self.timeout:
                return f"docker: {operation.replace('_', ' ')} has not been answered for {now - since:.0f} s"
        return ""

    def close(self) -> None:
        """Does not wait for hung calls: their threads are left to their socket's timeout."""
        self._calls.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()


def refusal(status: int, message: str, what: str) -> Exception:
    """The exception for an HTTP status of the Engine API."""
    if status == 404:
        return NotFound(message)
    if status == 409:
        return Conflict(message)
    if status in (502, 503, 504):
        return RuntimeUnavailable(f"{what}: {message}")
    return RuntimeRefused(message)


def _cause(error: BaseException) -> str:
    """The innermost reason: the SDK wraps `Connection refused` three times."""
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None:
            inner = next((arg for arg in getattr(error, "args", ()) if isinstance(arg, BaseException)), None)
        if inner is None:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        error = inner
