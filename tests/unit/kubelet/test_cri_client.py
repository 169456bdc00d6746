"""The CRI client and what follows the runtime's events, against a gRPC server of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from kubelet.cri import CriOptions, CriRuntime, calls
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import Call, Client
from kubelet.cri.health import Health
from kubelet.hints import Hints
from kubelet.runtime import (
    EVERYTHING,
    NODE,
    POD_UID,
    ExecTimeout,
    Hint,
    NotFound,
    RuntimeRefused,
    RuntimeUnavailable,
)

Answer = Callable[[Any], Any]


class Service:
    """Answers the calls it was given, and says Unimplemented to all others, as gRPC servers do."""

    def __init__(self, answers: Mapping[Call[Any, Any], Answer], streams: Mapping[Call[Any, Any], Answer]) -> None:
        self._answers = answers
        self._streams = streams

    def __mapping__(self) -> dict[str, Handler]:
        known = [call for call in vars(calls).values() if isinstance(call, Call)]
        unary = {
            call.path: Handler(_one(answer), Cardinality.UNARY_UNARY, call.question, call.answer)
            for call, answer in (dict.fromkeys(known, _unimplemented) | dict(self._answers)).items()
        }
        many = {
            call.path: Handler(_many(answer), Cardinality.UNARY_STREAM, call.question, call.answer)
            for call, answer in self._streams.items()
        }
        return unary | many


def _unimplemented(_: Any) -> GRPCError:
    return GRPCError(Status.UNIMPLEMENTED, "unknown method")


def _one(answer: Answer) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    async def handle(stream: Stream[Any, Any]) -> None:
        found = answer(await stream.recv_message())
        if asyncio.iscoroutine(found):
            found = await found
        if isinstance(found, GRPCError):
            raise found
        await stream.send_message(found)

    return handle


def _many(answer: Answer) -> Callable[[Stream[Any, Any]], Awaitable[None]]:
    async def handle(stream: Stream[Any, Any]) -> None:
        async for each in answer(await stream.recv_message()):
            await stream.send_message(each)

    return handle


@asynccontextmanager
async def serving(
    path: Path, answers: Mapping[Any, Answer] | None = None, streams: Mapping[Any, Answer] | None = None
) -> AsyncIterator[None]:
    server = Server([Service(answers or {}, streams or {})])
    await server.start(path=str(path))
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()


async def forever() -> None:
    await asyncio.Event().wait()


async def test_answers_refusals_and_silence(tmp_path: Path) -> None:
    seen: list[tuple[str, bool]] = []
    client = Client(
        str(tmp_path / "s"), timeout=0.2, observe=lambda operation, _, failed: seen.append((operation, failed))
    )
    answers = {
        calls.VERSION: lambda _: pb.VersionResponse(runtime_name="r"),
        calls.START: lambda q: GRPCError(Status.UNKNOWN, f"no to {q.container_id}"),
        calls.STOP: lambda _: GRPCError(Status.NOT_FOUND, "not there"),
        calls.STATUS: lambda _: forever(),
    }
    async with serving(tmp_path / "s", answers):
        assert (await client.call(calls.VERSION, pb.VersionRequest())).runtime_name == "r"
        with pytest.raises(RuntimeRefused, match=r"^no to c$"):
            await client.call(calls.START, pb.StartContainerRequest(container_id="c"))
        with pytest.raises(RuntimeUnavailable, match="cri: start container c: no to c"):
            await client.ask(calls.START, pb.StartContainerRequest(container_id="c"), subject="c")
        with pytest.raises(NotFound):
            await client.ask(calls.STOP, pb.StopContainerRequest())
        with pytest.raises(RuntimeUnavailable, match=r"no answer within 0\.2 s|DEADLINE"):
            await client.call(calls.STATUS, pb.StatusRequest())
        with pytest.raises(RuntimeRefused):  # Unimplemented is one
            await client.call(calls.LIST, pb.ListContainersRequest())
    assert seen[:2] == [("version", False), ("start_container", True)]
    client.close()


async def test_what_is_cancelled_here_is_cancelled_there(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def patient() -> pb.ExecSyncResponse:
        begun.set()
        try:
            await forever()
        finally:
            ended.set()
        return pb.ExecSyncResponse()

    runtime = CriRuntime(CriOptions(socket_path=str(tmp_path / "s"), node="n"))
    async with serving(tmp_path / "s", {calls.EXEC_SYNC: lambda _: patient()}):
        with pytest.raises(ExecTimeout, match=r"timed out after 0\.05s"):
            await runtime.exec_sync("c", ["sleep"], 0.05)
        async with asyncio.timeout(5):
            await ended.wait()
    assert begun.is_set()
    await runtime.close()


async def test_events_are_hints_where_a_runtime_has_them(tmp_path: Path) -> None:
    more: asyncio.Queue[pb.ContainerEventResponse] = asyncio.Queue()

    async def events(_: pb.GetEventsRequest) -> AsyncIterator[pb.ContainerEventResponse]:
        while True:
            yield await more.get()

    hints: asyncio.Queue[Hint] = asyncio.Queue()
    runtime = CriRuntime(CriOptions(socket_path=str(tmp_path / "s"), node="n"))
    async with serving(tmp_path / "s", streams={calls.EVENTS: events}), asyncio.TaskGroup() as group:
        watch = group.create_task(runtime.watch(hints.put_nowait))
        async with asyncio.timeout(5):
            assert await hints.get() == EVERYTHING
            assert runtime.hinting()
            for node in ("m", "n"):  # another kubelet's, ours
                status = pb.PodSandboxStatus(metadata=pb.PodSandboxMetadata(uid="u"), labels={POD_UID: "u", NODE: node})
                more.put_nowait(pb.ContainerEventResponse(container_id="c", pod_sandbox_status=status))
            assert await hints.get() == Hint("u", "c")
            assert hints.empty()
        watch.cancel()
    await runtime.close()


async def test_a_connection_that_the_runtime_tires_of_is_no_news(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made anew, and nothing is said as long as the same process is behind it."""
    monkeypatch.setattr("kubelet.cri.health._BRIEF", 0.0)
    connections: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    hints: list[Hint] = []
    health, kept = Health(Client(str(tmp_path / "s"))), Hints()
    server = await asyncio.start_unix_server(accept, tmp_path / "s")
    async with server, asyncio.TaskGroup() as group, asyncio.timeout(5):
        kept._notify = hints.append
        task = group.create_task(health._presence(kept))
        for number in range(1, 4):
            while len(connections) < number:
                await asyncio.sleep(0.001)
            assert hints == [EVERYTHING]
            connections[-1].close()
        task.cancel()


@pytest.mark.parametrize(
    ("config", "driver", "ready"),
    [
        (pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CGROUPFS)), "cgroupfs", True),
        (pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.SYSTEMD)), "systemd", False),
        (None, "", True),
    ],
)
async def test_status_tells_driver_handlers_and_conditions(
    tmp_path: Path, config: pb.RuntimeConfigResponse | None, driver: str, ready: bool
) -> None:
    conditions = [
        pb.RuntimeCondition(type="RuntimeReady", status=True),
        pb.RuntimeCondition(type="NetworkReady", status=False, reason="X", message="cni plugin not initialized"),
    ]
    told = pb.StatusResponse(
        status=pb.RuntimeStatus(conditions=conditions),
        runtime_handlers=[pb.RuntimeHandler(name=""), pb.RuntimeHandler(name="crun")],
    )
    answers: dict[Any, Answer] = {calls.STATUS: lambda _: told}
    if config is not None:
        answers[calls.RUNTIME_CONFIG] = lambda _: config
    runtime = CriRuntime(CriOptions(socket_path=str(tmp_path / "s"), node="n"))
    async with serving(tmp_path / "s", answers):
        status = await runtime.status()
    assert (status.cgroup_driver, status.runtime_ready) == (driver, ready)
    assert (status.network_ready, status.network_message) == (False, "cni plugin not initialized")
    assert status.handlers == ("", "crun")
    if not ready:
        assert "SystemdCgroup = false" in status.runtime_message
    await runtime.close()
