"""postStart and preStop hooks, against real servers on loopback."""

import pytest
from aiohttp import web

from kube.pods import Container, HTTPGetAction, HTTPHeader, LifecycleHandler, SleepAction, TCPSocketAction
from kubelet.hooks import HookFailed, Hooks
from tests.fakes.runtime import FakeRuntime
from tests.unit.kubelet.test_prober import serving


async def run(hook: LifecycleHandler) -> int:
    fallen: list[None] = []
    await Hooks(FakeRuntime()).run(hook, Container(name="a"), "c1", "127.0.0.1", lambda: fallen.append(None))
    return len(fallen)


async def test_any_http_answer_will_do_and_none_will_not() -> None:
    seen: list[web.Request] = []

    def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response(status=500)

    async with serving(answer) as port:
        await run(LifecycleHandler(http_get=HTTPGetAction(port=port, path="bye?x=1")))
    assert seen[0].path_qs == "/bye?x=1"
    assert seen[0].headers["User-Agent"].startswith("kube-lifecycle/1.")
    with pytest.raises(HookFailed, match=r"HTTP GET 127\.0\.0\.1"):
        await run(LifecycleHandler(http_get=HTTPGetAction(port=port)))


async def test_an_https_hook_falls_back_to_http_without_its_authorization() -> None:
    seen: list[web.Request] = []

    def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return web.Response()

    secret = HTTPHeader(name="Authorization", value="secret")
    async with serving(answer) as port:
        hook = LifecycleHandler(http_get=HTTPGetAction(port=port, scheme="HTTPS", http_headers=(secret,)))
        assert await run(hook) == 1
    assert "Authorization" not in seen[0].headers


async def test_sleep_sleeps_and_tcp_fails_as_upstreams_does() -> None:
    await run(LifecycleHandler(sleep=SleepAction(seconds=0)))
    with pytest.raises(HookFailed, match="invalid handler"):
        await run(LifecycleHandler(tcp_socket=TCPSocketAction(port=80)))
