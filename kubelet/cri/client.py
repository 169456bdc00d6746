"""Calls to a CRI runtime: gRPC over its unix socket, one connection, each call with a deadline.

The connection is made at the first call and again after it was lost. A deadline is told to the runtime too (grpc-timeout), and a
call that is cancelled here is cancelled there. What the runtime answers becomes one of the fates of `kubelet.runtime`; the
words are its own, without the "rpc error: code = ..." that Go clients put before them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from kubelet.grpc import Channel, GRPCError, Lost, Status
from kubelet.runtime import NotFound, Observer, RuntimeRefused, RuntimeUnavailable, unobserved

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

NO_LIMIT = 0.0
# Between the death of a process and the runtime's admission, seconds: containerd needs some 50 ms.
SETTLE = (0.005, 0.01, 0.015, 0.01, 0.01, 0.01, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 2.0, 4.0)
_AWAY = frozenset({Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.CANCELLED, Status.ABORTED})


class Unimplemented(RuntimeRefused):
    """The runtime is older than the call."""


class DeadlineExceeded(RuntimeUnavailable):
    """Said by the runtime itself: something that it waited for took too long."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, A]):
    """`operation` is upstream's name for it in kubelet_runtime_operations_total."""

    path: str
    question: type[Q]
    answer: type[A]
    operation: str


class Client:
    def __init__(self, socket_path: str, *, timeout: float = 120.0, observe: Observer = unobserved) -> None:
        self.socket_path = socket_path
        self.timeout = timeout
        self._observe = observe
        self._channel: Channel | None = None

    def _opened(self) -> Channel:
        if self._channel is None:
            self._channel = Channel(path=self.socket_path)
        return self._channel

    async def call(self, call: Call[Q, A], question: Q, *, subject: str = "", timeout: float | None = None) -> A:
        """`timeout` None means the runtimeRequestTimeout, NO_LIMIT none at all."""
        limit = self.timeout if timeout is None else timeout
        what = f"cri: {call.operation.replace('_', ' ')} {subject}".rstrip()
        begun, failed = time.monotonic(), True
        try:
            told = await self._opened().ask(call.path, question.SerializeToString(), timeout=limit or None)
            answer = call.answer.FromString(told)
            failed = False
        except GRPCError as error:
            raise refusal(error, what) from error
        except TimeoutError:
            raise RuntimeUnavailable(f"{what}: no answer within {limit:g} s") from None
        except (Lost, DecodeError) as error:
            raise RuntimeUnavailable(f"{what}: the connection was lost: {error}") from error
        except OSError as error:
            raise RuntimeUnavailable(f"{what}: {error.strerror or error} (socket {self.socket_path})") from error
        finally:
            self._observe(call.operation, time.monotonic() - begun, failed)
        return answer

    async def ask(self, call: Call[Q, A], question: Q, *, subject: str = "", timeout: float | None = None) -> A:
        """A call that has no author to blame: what the runtime refuses there is worth another try. NotFound is told."""
        try:
            return await self.call(call, question, subject=subject, timeout=timeout)
        except NotFound:
            raise
        except RuntimeRefused as error:
            raise RuntimeUnavailable(f"cri: {call.operation.replace('_', ' ')} {subject}: {error.message}") from error

    async def follow(self, call: Call[Q, A], question: Q) -> AsyncIterator[A]:
        """The runtime's answers as they come, without end; Unimplemented where it has none to give."""
        what = f"cri: {call.operation.replace('_', ' ')}"
        try:
            async for told in self._opened().follow(call.path, question.SerializeToString()):
                yield call.answer.FromString(told)
        except GRPCError as error:
            raise refusal(error, what) from error
        except (Lost, DecodeError) as error:
            raise RuntimeUnavailable(f"{what}: the connection was lost: {error}") from error
        except OSError as error:
            raise RuntimeUnavailable(f"{what}: {error.strerror or error} (socket {self.socket_path})") from error

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def refusal(error: GRPCError, what: str) -> Exception:
    message = error.message or error.status.name
    match error.status:
        case Status.NOT_FOUND:
            return NotFound(message)
        case Status.UNIMPLEMENTED:
            return Unimplemented(f"{what}: {message}")
        case Status.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{what}: {message}")
        case status if status in _AWAY:
            return RuntimeUnavailable(f"{what}: {message}")
        case _:
            return RuntimeRefused(message)
