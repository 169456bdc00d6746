"""A thin etcd v3 client over grpcio: the calls an API server and an overlay need, failover, and the truth about what was sent.

One channel an endpoint; the one that answered last is used until it fails, then the next. What matters to a caller is whether a
failed request can have been carried out:

    Away      no endpoint took the request: nothing happened, try again
    Refused   etcd answered no: nothing happened (`code` is gRPC's word, `message` etcd's own)
    Unsure    a write was sent and its answer lost: it may or may not have happened

Reads go to the next endpoint by themselves. A write is sent only over a connection that stands, and never twice.

With a user name every call carries a token. etcd forgets tokens (after five minutes of silence, at its restart): a call that is
refused for its token was not carried out, so a new one is fetched and the call made again.

A dead connection is noticed by HTTP/2 pings (10 s, and 5 s to answer; etcd allows one each 5 s). Watches ask for a member that
has a leader, so that one cut off from the others ends its watches instead of falling silent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from kube import etcd_wire as wire
from kube.errors import UsageError
from kube.etcd_wire import RangeAnswer, StatusAnswer, TxnAnswer, WatchAnswer

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes to stderr what its callers are told anyway
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc

T = TypeVar("T")

CONNECT_SECONDS: Final = 2.0
READ_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 10.0
_OPTIONS: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)
_TOKEN_REFUSED: Final = ("invalid auth token", "revision of auth store is old", "user name is empty")
_NOT_CARRIED_OUT: Final = ("etcdserver: no leader", "etcdserver: not capable", "etcdserver: too many requests")


class Away(Exception):
    """Nothing was sent, or nothing that was sent can have been carried out."""


class Unsure(Exception):
    """A write was sent, its answer lost."""


class Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Access:
    """Where etcd is, and the files and names that open it. `flag`: by which the endpoints were given, for messages."""

    endpoints: tuple[str, ...]
    ca: str = ""
    certificate: str = ""
    key: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    flag: str = "--etcd-servers"


class Etcd:
    """Made by `connect`; needs a running event loop."""

    def __init__(self, access: Access) -> None:
        credentials = _credentials(access)
        self._endpoints = tuple(_target(endpoint, access.flag) for endpoint in access.endpoints)
        self._channels = tuple(
            grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
            if secure
            else grpc.aio.insecure_channel(target, options=_OPTIONS)
            for target, secure in self._endpoints
        )
        self._at = 0
        self._calls: dict[tuple[int, str], Any] = {}
        self._user = (access.username, access.password) if access.username else None
        self._token = ""

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close(None)

    async def range(self, key: bytes, end: bytes = b"", **limits: Any) -> RangeAnswer:
        """Linearizable. Raises Away, Refused."""
        request = wire.range_request(key, end, **limits)
        return await self._read("KV/Range", request, wire.range_answer)

    async def alarms(self) -> list[str]:
        """What etcd has raised: NOSPACE refuses every write until it is disarmed."""
        return await self._read("Maintenance/Alarm", b"", wire.alarms_answer)

    async def status(self) -> StatusAnswer:
        return await self._read("Maintenance/Status", b"", wire.status_answer)

    async def txn(self, compare: Sequence[bytes], success: Sequence[bytes], failure: Sequence[bytes]) -> TxnAnswer:
        """Raises Away, Refused, Unsure."""
        return await self._write("KV/Txn", wire.txn_request(compare, success, failure), wire.txn_answer)

    async def grant(self, ttl: int) -> tuple[int, int]:
        """A lease: (id, seconds granted). One that nobody learnt of expires unused."""
        return await self._write("Lease/LeaseGrant", wire.lease_grant_request(ttl), wire.lease_answer)

    async def revoke(self, lease: int) -> None:
        """With the keys that hang on it. Refused with NOT_FOUND when it is gone."""
        await self._write("Lease/LeaseRevoke", wire.lease_request(lease), bytes)

    async def time_to_live(self, lease: int) -> int:
        """Seconds that are left of it; none (<= 0) when it is gone."""
        return (await self._read("Lease/LeaseTimeToLive", wire.lease_request(lease), wire.lease_answer))[1]

    async def keep_alive(self, lease: int) -> int:
        """Give a lease all its time again: how many seconds that is, 0 when it is gone. Harmless twice, so it goes as a read."""

        async def once(channel: Any) -> bytes:
            call = channel.stream_stream("/etcdserverpb.Lease/LeaseKeepAlive")(
                timeout=READ_SECONDS, metadata=await self._metadata(channel)
            )
            try:
                await call.write(wire.lease_request(lease))
                answer = await call.read()
            except asyncio.InvalidStateError as error:
                raise Away(f"etcd at {self._where}: the lease could not be renewed") from error
            finally:
                call.cancel()
            if not isinstance(answer, bytes):  # the end of the stream
                raise Away(f"etcd at {self._where}: the lease could not be renewed")
            return answer

        return max(0, wire.lease_answer(await self._reading(once))[1])

    async def compact(self, revision: int) -> None:
        """Forgets what was before `revision`; compacting twice is Refused with OUT_OF_RANGE."""
        await self._write("KV/Compact", wire.compaction_request(revision), bytes)

    async def watch(
        self, start: int, key: bytes = wire.EVERYTHING[0], end: bytes = wire.EVERYTHING[1]
    ) -> AsyncGenerator[WatchAnswer, None]:
        """What etcd says of the keys from `key` to before `end` from revision `start` on, whole (fragments joined); it ends
        with Away when the connection does. An answer that is `canceled` (by `compact_revision`, or for its `reason`) is the
        last one."""
        channel = await self._standing()
        metadata = (("hasleader", "true"), *(await self._metadata(channel) or ()))
        call = channel.stream_stream("/etcdserverpb.Watch/Watch")(metadata=metadata)
        parts: list[WatchAnswer] = []
        try:
            await call.write(wire.watch_create(start, key, end))
            async for data in call:
                parts.append(wire.watch_answer(data))
                if parts[-1].fragment:
                    continue
                if parts[-1].canceled:
                    self._token = ""  # etcd does not say here whether it was the token's fault
                yield parts[0] if len(parts) == 1 else _joined(parts)
                parts.clear()
            raise Away(f"etcd at {self._where}: the watch ended")
        except grpc.aio.AioRpcError as error:
            self._next(channel)
            raise Away(f"etcd: the watch broke: {error.details()}") from error
        except asyncio.InvalidStateError as error:  # written to a call that had ended by itself
            self._next(channel)
            raise Away(f"etcd at {self._where}: the watch broke") from error
        finally:
            call.cancel()

    @property
    def _where(self) -> str:
        return self._endpoints[self._at][0]

    def _next(self, failed: Any) -> None:
        """The next endpoint, unless another request has moved on from the failed one already."""
        if self._channels[self._at] is failed:
            self._at = (self._at + 1) % len(self._channels)

    def _call(self, channel: Any, method: str) -> Any:
        """Made once: it costs as much as a call."""
        known = self._calls.get((id(channel), method))
        if known is None:
            known = self._calls[id(channel), method] = channel.unary_unary(f"/etcdserverpb.{method}")
        return known

    async def _metadata(self, channel: Any) -> tuple[tuple[str, str], ...] | None:
        """Who is asking; fetches a token where there is a user and none yet."""
        if self._user is None:
            return None
        if not self._token:
            request = wire.authenticate_request(*self._user)
            try:
                answer = await self._call(channel, "Auth/Authenticate")(request, timeout=READ_SECONDS)
            except grpc.aio.AioRpcError as error:
                if "authentication is not enabled" not in (error.details() or ""):
                    raise
                return None
            self._token = wire.token_answer(answer)
        return (("token", self._token),)

    def _token_refused(self, why: str) -> bool:
        """Whether another token may help; forgets the one there was."""
        if not self._token or not any(words in why for words in _TOKEN_REFUSED):
            return False
        self._token = ""
        return True

    async def _read(self, method: str, request: bytes, decode: Callable[[bytes], T]) -> T:
        async def once(channel: Any) -> bytes:
            metadata = await self._metadata(channel)
            return bytes(await self._call(channel, method)(request, timeout=READ_SECONDS, metadata=metadata))

        return decode(await self._reading(once))

    async def _reading(self, once: Callable[[Any], Awaitable[bytes]]) -> bytes:
        why = ""
        for _ in range(len(self._channels) + 1):  # the first one twice: its connection may be an old one
            channel = await self._standing()
            try:
                return await once(channel)
            except grpc.aio.AioRpcError as error:
                why = error.details() or ""
                if self._token_refused(why):
                    continue
                gone = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                if not gone and not _not_carried_out(why):
                    raise _refused(error) from error
                self._next(channel)
        raise Away(f"etcd does not answer: {why}")

    async def _write(self, method: str, request: bytes, decode: Callable[[bytes], T], *, may_repeat: bool = True) -> T:
        channel = await self._standing()
        sent = False
        try:
            metadata = await self._metadata(channel)
            sent = True
            return decode(await self._call(channel, method)(request, timeout=WRITE_SECONDS, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details() or ""
            if self._token_refused(details) and may_repeat:
                return await self._write(method, request, decode, may_repeat=False)
            if _not_carried_out(details):  # whatever the code: too many requests are RESOURCE_EXHAUSTED
                self._next(channel)
                raise Away(f"etcd refused for now: {details}") from error
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
                self._next(channel)
                if not sent or "failed to connect" in details:
                    raise Away(f"etcd refused for now: {details}") from error
                raise Unsure(f"etcd was lost while it was writing: {details}") from error
            raise _refused(error) from error

    async def _standing(self) -> Any:
        """A channel whose connection stands, the current endpoint's if it can be had."""
        for _ in self._channels:
            channel = self._channels[self._at]
            state = channel.get_state(try_to_connect=True)
            if state is grpc.ChannelConnectivity.READY or await _connected(channel, state):
                return channel
            self._next(channel)
        raise Away(f"etcd: no connection to {', '.join(target for target, _ in self._endpoints)}")


async def _connected(channel: Any, state: Any) -> bool:
    """Waits for the outcome of an attempt to connect."""
    tried = False
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and tried:
                    return False
                tried = tried or state is grpc.ChannelConnectivity.CONNECTING
                await channel.wait_for_state_change(state)
                state = channel.get_state(try_to_connect=True)
    except TimeoutError:
        return False
    return True


def _joined(parts: Sequence[WatchAnswer]) -> WatchAnswer:
    last = parts[-1]
    events = tuple(event for part in parts for event in part.events)
    return WatchAnswer(
        last.header, last.created, last.canceled, last.compact_revision, last.reason, fragment=False, events=events
    )


def _not_carried_out(details: str) -> bool:
    return any(words in details for words in _NOT_CARRIED_OUT)


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    return Refused(error.code().name, error.details() or "")


def _target(endpoint: str, flag: str) -> tuple[str, bool]:
    """`host:port`, and whether it speaks TLS. Raises UsageError."""
    parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    try:
        port = parts.port or 2379
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port or parts.path.strip("/"):
        raise UsageError(f"{flag}: {endpoint!r} is no etcd endpoint; write it like https://10.0.0.1:2379")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}", parts.scheme == "https"


def _credentials(access: Access) -> Any:
    """Raises UsageError for files that cannot be read and for half a pair."""
    if bool(access.certificate) != bool(access.key):
        raise UsageError("--etcd-certfile and --etcd-keyfile belong together; give both or neither")
    if access.ca and not any(endpoint.startswith("https") for endpoint in access.endpoints):
        raise UsageError(f"--etcd-cafile: no endpoint of {access.flag} speaks https; write https://... or leave it out")
    files = {"--etcd-cafile": access.ca, "--etcd-keyfile": access.key, "--etcd-certfile": access.certificate}
    contents: list[bytes | None] = []
    for flag, path in files.items():
        try:
            contents.append(Path(path).read_bytes() if path else None)
        except OSError as error:
            raise UsageError(f"{flag} {path}: {error.strerror}; name a readable PEM file") from error
    return grpc.ssl_channel_credentials(*contents)
