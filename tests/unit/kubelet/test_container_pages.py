"""The pages of containers' figures over HTTP: who hangs up, who waits, what cannot be read in time, and what words mean."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from kube.pods import Pod
from kubelet.runtime import ContainerRecord, ContainerState, PodIdentity, PodRecord
from kubelet.server.containers import container_pages, identities
from kubelet.server.summary import Site
from tests.fakes.runtime import FakeRuntime


class Gate:
    """Records of pods, which nobody gets while it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def records(self) -> Iterable[PodRecord]:
        assert self.open.wait(30)
        return ()


@asynccontextmanager
async def serving(gate: Gate, folder: Path, patience: float = 30.0) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    site = Site(
        node="n", cgroup_root="/none-of-this-name", root_dir=str(folder), pod_logs_dir=str(folder)
    )  # which is an error, said as such
    async with AsyncExitStack() as stack:
        pages = container_pages(stack, gate.records, list, FakeRuntime(), site, "pause:1", patience=patience)
        application = web.Application()
        for path, handler in pages.items():
            application.router.add_get(path, handler)
        async with TestServer(application) as server, aiohttp.ClientSession() as session:
            try:
                yield str(server.make_url("/")), session
            finally:
                gate.open.set()


async def status(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as answer:
        return answer.status, await answer.text()


async def test_twenty_at_once_and_one_that_hangs_up(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(gate, tmp_path) as (url, session):
        gate.open.clear()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(status(session, f"{url}metrics/resource")) for _ in range(20)]
            gone = group.create_task(status(session, f"{url}metrics/resource"))
            await asyncio.wait({gone}, timeout=0.05)
            gone.cancel()
            gate.open.set()
        assert {each.result()[0] for each in asked} == {200}
        code, text = await status(session, f"{url}metrics/resource")
        assert (code, text.splitlines()[-1]) == (200, "resource_scrape_error 1")


async def test_a_page_is_packed_for_who_takes_that(tmp_path: Path) -> None:
    async with serving(Gate(), tmp_path) as (url, session):
        page = f"{url}metrics/cadvisor?metrics=full"
        async with session.get(page, headers={"Accept-Encoding": "gzip"}) as packed:
            assert packed.headers["Content-Encoding"] == "gzip"
            assert "container_scrape_error" in await packed.text()
        async with session.get(page, headers={"Accept-Encoding": "gzip;q=0"}) as plain:
            assert "Content-Encoding" not in plain.headers
            assert plain.headers["Vary"] == "Accept-Encoding"


def test_an_image_is_called_what_the_pod_calls_it() -> None:
    who = PodIdentity(uid="u1", name="p", namespace="default")
    made = datetime(2026, 1, 1, tzinfo=UTC)
    record = PodRecord(
        pod=who,
        containers=tuple(
            ContainerRecord(
                id=f"id-{name}", sandbox_id="s", name=name, attempt=0, image="sha256:4cf",
                state=ContainerState.RUNNING, created_at=made,
            )
            for name in ("web", "gone")
        ),
    )  # fmt: skip
    pod = msgspec.convert(
        {
            "metadata": {"uid": "u1", "name": "p"},
            "spec": {"containers": [{"name": "web", "image": "wherry.local/demo:1"}]},
        },
        Pod,
    )
    found = identities([record], [pod], "pause:1")
    assert found["id-web"].image == "wherry.local/demo:1"
    assert found["id-gone"].image == "sha256:4cf", "the runtime's word, where the pod is not known"


async def test_what_cannot_be_read_in_time_is_said_and_comes_when_it_can(tmp_path: Path) -> None:
    gate = Gate()
    async with serving(gate, tmp_path, patience=0.2) as (url, session):
        gate.open.clear()
        code, text = await status(session, f"{url}metrics/resource")
        assert (code, "not done within 0.2 s" in text) == (503, True)
        gate.open.set()
        async with asyncio.timeout(20):
            while (await status(session, f"{url}metrics/resource"))[0] != 200:
                pass


async def test_which_families(tmp_path: Path) -> None:
    async with serving(Gate(), tmp_path) as (url, session):
        path = f"{url}metrics/cadvisor"
        code, text = await status(session, path)
        assert (code, "machine_memory_bytes" in text, "container_scrape_error 1" in text) == (200, True, True)
        code, text = await status(session, f"{path}?metrics=no_such_family")
        assert (code, "no_such_family" in text) == (400, True)
        async with session.get(path, headers={"Accept": "application/openmetrics-text;version=1.0.0"}) as answer:
            assert answer.content_type == "application/openmetrics-text"
            assert (await answer.text()).endswith("# EOF\n")


PROMETHEUS = {  # as its scrapes say it, 2.42 and 3.x
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.42.0",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}
METRICS_SERVER = {"Accept-Encoding": "gzip", "User-Agent": "metrics-server/v0.0.0 (linux/amd64) kubernetes/$Format"}


async def test_requests_as_they_come_from_others(tmp_path: Path) -> None:
    async with serving(Gate(), tmp_path) as (url, session):
        for path, headers in (
            ("metrics/cadvisor", PROMETHEUS),
            ("metrics/resource", PROMETHEUS),
            ("metrics/resource", METRICS_SERVER),
            ("stats/summary?only_cpu_and_memory=true", METRICS_SERVER),
        ):
            async with session.get(f"{url}{path}", headers=headers) as answer:
                text = await answer.text()
            assert answer.status == 200, text
            match answer.content_type:
                case "application/openmetrics-text":
                    assert list(openmetrics(text))  # type: ignore[no-untyped-call]
                case "text/plain":
                    assert list(text_string_to_metric_families(text))
                case kind:
                    assert (kind, json.loads(text)["node"]["nodeName"]) == ("application/json", "n")


async def test_the_summary_is_there_without_any_pod(tmp_path: Path) -> None:
    async with serving(Gate(), tmp_path) as (url, session):
        async with session.get(f"{url}stats/summary") as answer:
            found = await answer.json()
        assert (found["node"]["nodeName"], found["pods"]) == ("n", [])
        assert found["node"]["fs"]["capacityBytes"] > 0
