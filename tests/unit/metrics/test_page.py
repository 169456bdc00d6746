"""What the page is given: files with a policy, and each moment's rates."""

import re
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import aiohttp
import pytest

from kube import serving
from linux.cgroup.usage import Cpu, Usage
from metrics import page
from metrics.history import COLUMNS, History, Sampler
from metrics.model import Machine, Sample, Snapshot
from metrics.page import feed
from tests.metrics_world import HOSTILE, World

MACHINE = Machine(cores=1, physical_cores=1, memory_bytes=1, swap_bytes=0, kernel="", system="")
LABELS = {"container": "", "id": "", "image": "", "name": "", "namespace": "", "pod": ""}


def snapshot(when: float, **cpu: int) -> Snapshot:
    samples = (Sample(f"/{name}", LABELS, Usage(cpu=Cpu(used), memory=None, pids=1)) for name, used in cpu.items())
    return Snapshot(when, MACHINE, tuple(samples))


def delta(newest: Snapshot, kept: History, since: float, known: str) -> dict[str, Any]:
    return feed.delta(newest, feed.wanted(kept, since), known=known, keeps=kept.duration, interval=1.0)


def shown(row: object) -> dict[str, object]:
    assert isinstance(row, list)
    return dict(zip(feed.SHOWN, row, strict=True))


def test_rates_are_between_moments_and_of_those_who_were_there() -> None:
    kept = History(120)
    kept.add(snapshot(10.0, a=1_000_000_000))
    second = snapshot(12.0, a=2_000_000_000, b=5)
    kept.add(second)
    found = delta(second, kept, 0.0, "")
    (first, rows_before), (last, rows) = found["frames"]
    assert (first, last) == (10.0, 12.0)
    assert shown(rows_before[0])["cpu"] is None
    assert rows_before[1] is None
    assert shown(rows[0])["cpu"] == 0.5
    assert shown(rows[1])["cpu"] is None, "no rate without a moment before"
    assert shown(rows[0])["working_set"] is None


def test_only_what_is_new_and_the_list_only_when_it_changed() -> None:
    kept = History(120)
    newest = snapshot(12.0, a=100)
    for one in (snapshot(10.0, a=0), snapshot(11.0, a=250_000_000), newest):
        kept.add(one)
    first = delta(newest, kept, 0.0, "")
    again = delta(newest, kept, 10.0, first["groups"])
    assert "list" in first
    assert "list" not in again
    assert [when for when, _ in again["frames"]] == [11.0, 12.0]
    assert shown(again["frames"][0][1][0])["cpu"] == 0.25, "the moment before is the server's to know"
    assert shown(again["frames"][1][1][0])["cpu"] is None, "a counter that started anew is no rate"
    assert delta(newest, kept, 12.0, first["groups"])["frames"] == []


def test_with_very_many_groups_a_page_begins_with_few_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FIRST_ROWS", 200)
    kept = History(120)
    for second in range(20):
        kept.add(snapshot(10.0 + second, **{f"g{n}": second for n in range(40)}))
    assert [frame and frame.when for frame in feed.wanted(kept, 0.0)] == [24.0, 25.0, 26.0, 27.0, 28.0, 29.0]
    assert len(feed.wanted(kept, 28.0)) == 2


def test_throttling_is_a_share_of_the_periods_between() -> None:
    def row(periods: int, throttled: int) -> list[int]:
        made = [0] * len(COLUMNS)
        made[COLUMNS.index("periods")], made[COLUMNS.index("throttled_periods")] = periods, throttled
        return made

    assert shown(feed.shown(1.0, row(100, 10), row(110, 15)))["throttled"] == 0.5
    assert shown(feed.shown(1.0, row(100, 10), row(100, 10)))["throttled"] == 0
    assert shown(feed.shown(1.0, row(100, 10), row(50, 5)))["throttled"] is None


def test_a_time_that_is_none_is_everything() -> None:
    assert [feed.time_of(text) for text in ("", "soon", "nan", "inf", "-1e400", "12.5")] == [
        0.0,
        0.0,
        0.0,
        0.0,
        0.0,
        12.5,
    ]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    world = World()
    sampler = Sampler(world.read)
    async with serving.serve("127.0.0.1", 0, page.routes(world.read, sampler, prefix="/")) as port:
        yield f"http://127.0.0.1:{port}"


async def test_the_files_are_served_under_a_policy_that_names_nothing_else(url: str) -> None:
    async with aiohttp.ClientSession() as session:
        for path in ("/containers/", "/docker/", "/containers/a/b", "/page/page.js", "/page/page.css", "/page/now"):
            async with session.get(url + path) as answer:
                assert answer.status == 200, path
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        async with session.get(f"{url}/", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/containers/")
        async with session.get(f"{url}/page/past?path=/nobody") as answer:
            assert (await answer.json())["moments"] == []
        async with session.get(f"{url}/page/now") as answer:
            assert HOSTILE in [group["name"] for group in (await answer.json())["list"]]


async def test_below_a_prefix_all_addresses_have_it() -> None:
    world = World()
    async with serving.serve("127.0.0.1", 0, page.routes(world.read, Sampler(world.read), prefix='/a"b')) as port:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/containers/") as answer:
            text = await answer.text()
    assert 'data-root="/a&quot;b"' in text
    assert 'src="/a&quot;b/page/page.js"' in text
    assert "{{" not in text


async def test_the_way_home_is_an_address() -> None:
    world = World()
    async with serving.serve("127.0.0.1", 0, page.routes(world.read, Sampler(world.read), prefix="/a&b c/")) as port:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/", allow_redirects=False) as answer:
                assert answer.headers["Location"] == "/a%26b%20c/containers/"


def test_nothing_comes_from_elsewhere_and_no_text_becomes_html() -> None:
    folder = files("metrics.page")
    script = folder.joinpath("page.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert word not in script
    for name in ("page.html", "page.css", "page.js"):
        text = folder.joinpath(name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(|@import", text), name
    shell = folder.joinpath("page.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", shell)
