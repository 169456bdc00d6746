"""postStart and preStop hooks, against real servers on loopback."""

import asyncio

import pytest
from aiohttp import web

from kube.pods import (
    Container,
    ExecAction,
    HTTPGetAction,
    HTTPHeader,
    LifecycleHandler,
    SleepAction,
    TCPSocketAction,
)
from kubelet.hooks import HookFailed, Hooks
from kubelet.runtime import ExecResult
from tests.fakes.runtime import FakeRuntime
from tests.unit.kubelet.test_prober import Answering, serving


async def run(hook: LifecycleHandler, runtime: object = None) -> list[str]:
    fallen: list[str] = []
    hooks = Hooks(runtime or FakeRuntime())  # type: ignore[arg-type]
    await hooks.run(hook, Container(name="a"), "c1", "127.0.0.1", fallen.append)
    assert hooks.fallbacks == len(fallen)
    return fallen


async def test_any_http_answer_will_do_and_none_will_not() -> None:
    seen: list[web.Request] = []

    def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(status=500)

    async with serving(answer) as port:
        await run(LifecycleHandler(http_get=HTTPGetAction(port=port, path="bye?x=1")))
    assert seen[0].path_qs == "/bye?x=1"
    assert seen[0].headers["User-Agent"] == "kube-lifecycle/1.36"
    with pytest.raises(HookFailed, match=r'HTTP lifecycle hook \(/\) for Container "a" failed - error: .*refused'):
        await run(LifecycleHandler(http_get=HTTPGetAction(port=port)))
    with pytest.raises(HookFailed, match="port web not found"):
        await run(LifecycleHandler(http_get=HTTPGetAction(port="web")))


async def test_an_https_hook_falls_back_to_http_without_its_authorization() -> None:
    seen: list[web.Request] = []

    def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response()

    given = (HTTPHeader(name="Authorization", value="secret"), HTTPHeader(name="X-A", value="b"))
    async with serving(answer) as port:
        hook = LifecycleHandler(http_get=HTTPGetAction(port=port, scheme="HTTPS", http_headers=given))
        assert await run(hook) == [f"127.0.0.1:{port}"]
    assert "Authorization" not in seen[0].headers
    assert seen[0].headers["X-A"] == "b"


async def test_sleep_and_tcp() -> None:
    await run(LifecycleHandler(sleep=SleepAction(seconds=0)))
    async with await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await run(LifecycleHandler(tcp_socket=TCPSocketAction(port=port)))
    with pytest.raises(HookFailed, match=r"TCP lifecycle hook .* connection refused"):
        await run(LifecycleHandler(tcp_socket=TCPSocketAction(port=port)))


async def test_commands() -> None:
    hook = LifecycleHandler(exec=ExecAction(command=("rm", "-r", "/x")))
    await run(hook, Answering(ExecResult(0, b"", b"")))
    with pytest.raises(HookFailed) as failed:
        await run(hook, Answering(ExecResult(3, b"out ", b"err")))
    said = "error: command 'rm -r /x' exited with 3, message: \"out err\""
    assert str(failed.value) == f'Exec lifecycle hook ([rm -r /x]) for Container "a" failed - {said}'
    with pytest.raises(HookFailed, match="Cannot run handler"):
        await run(LifecycleHandler())
