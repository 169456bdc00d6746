"""The page in a real browser: it shows who is there, moves, sorts, searches, and holds on a phone.

The machine behind it is of the test's making (tests/metrics_world.py), one of whose containers has a name that would be a script.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kube import serving
from metrics import page, rest
from metrics.history import PARTS, Sampler
from tests.metrics_world import HOSTILE, World
from tests.node.chromium import PROGRAM, Page, browser
from tests.requirements import requires

_ROWS = "document.querySelectorAll('#table tbody tr').length"
_FIRST_COLUMN = "[...document.querySelectorAll('#table tbody tr')].map(r => r.dataset.path)"


@dataclass(slots=True)
class Scene:
    page: Page
    world: World
    sampler: Sampler
    url: str

    def column(self, at: int) -> str:
        return f"[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[{at}].innerText.trim())"


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """The page, open on a desk, once it has rows."""
    requires(PROGRAM)
    world = World(pods=6)
    sampler = Sampler(world.read, duration=600, interval=0.2)
    routes = {**page.routes(world.read, sampler), **rest.routes(world.read, sampler)}
    async with asyncio.TaskGroup() as tasks:
        sampling = tasks.create_task(sampler.run())
        async with serving.serve("127.0.0.1", 0, routes) as port, browser(tmp_path) as tab:
            url = f"http://127.0.0.1:{port}"
            await tab.size(1400, 1000)
            await tab.open(f"{url}/")
            await tab.until(_ROWS)
            yield Scene(tab, world, sampler, url)
            assert tab.complaints == []
        sampling.cancel()


async def test_everybody_is_there_and_a_name_is_only_text(scene: Scene) -> None:
    tab, world = scene.page, scene.world
    assert await tab.value("location.pathname") == "/containers/"
    assert sorted(await tab.value(_FIRST_COLUMN)) == sorted(world.paths())
    links = await tab.value("[...document.querySelectorAll('#tree a')].map(a => a.dataset.path)")
    assert set(world.paths()) | set(world.paths("pod")) | {
        "/",
        "/system.slice/no-utf8-\udcff",
        "/system.slice/sshd.service",
    } <= set(links)
    titles = await tab.value("[...document.querySelectorAll('#table td:first-child a')].map(a => a.firstChild.data)")
    assert HOSTILE in titles
    assert await tab.value("document.querySelectorAll('img, #table b, #tree b').length") == 0
    assert await tab.value("document.title") == "Machine · wherry-metrics"
    assert "4 cores · 8 GiB" in await tab.value("document.getElementById('machine').innerText")
    assert await tab.value("document.querySelectorAll('#systems progress').length") == 2


async def test_plots_move_and_limits_are_drawn(scene: Scene) -> None:
    tab = scene.page
    line = "document.querySelector('#plot-cpu path.line')?.getAttribute('d') || ''"
    before = await tab.until(line, lambda d: d.count("L") >= 3)
    await tab.until(line, lambda d: d.count("L") > before.count("L") + 2)  # it has more to say, not only less time left
    await tab.until("document.getElementById('state').innerText", lambda text: text.startswith("Live"))
    limited = scene.world.paths()[1]  # half a core and some memory
    await tab.value(f"document.querySelector('#tree a[data-path=\"{limited}\"]').click()")
    assert await tab.value("location.pathname") == f"/containers{limited}"
    await tab.until("document.querySelector('#plot-cpu .limit').innerText", lambda text: text == "limit 500m")
    await tab.until("document.querySelectorAll('#plot-memory line.cap').length")
    for plot in ("cpu", "memory", "network", "io", "throttled", "pressure"):
        await tab.until(f"document.querySelector('#plot-{plot} path.line')?.getAttribute('d').length > 10")
        label = await tab.value(f"document.querySelector('#plot-{plot} svg').getAttribute('aria-label')")
        assert " of app: " in label or " of sidecar: " in label
    await tab.value("history.back()")
    await tab.until("document.getElementById('name').innerText", lambda name: name == "Machine")


async def test_a_pointer_reads_the_plot_and_pause_holds_it(scene: Scene) -> None:
    tab = scene.page
    await tab.until("document.querySelector('#plot-cpu path.line')?.getAttribute('d').length > 10")
    await tab.click("#pause")
    assert await tab.value("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    await tab.until("document.getElementById('state').innerText", lambda text: text == "Paused")
    box = await tab.value(
        "(() => { const b = document.querySelector('#plot-memory svg').getBoundingClientRect(); return [b.x, b.y, b.width]; })()"
    )
    await tab.move(box[0] + box[2] / 2, box[1] + 40)
    await tab.until("document.querySelectorAll('line.at').length", lambda lines: lines >= 3)
    await tab.click("#pause")
    await tab.until("document.getElementById('state').innerText", lambda text: text.startswith("Live"))


async def test_the_table_sorts_and_search_narrows(scene: Scene) -> None:
    tab, world = scene.page, scene.world
    await tab.click("th[data-key=name] button")
    assert await tab.value("document.querySelector('th[data-key=name]').getAttribute('aria-sort')") == "ascending"
    names = await tab.value(
        "[...document.querySelectorAll('#table tbody tr')].map(r => r.querySelector('small').innerText)"
    )
    in_pods = [name for name in names if " / " in name]
    assert in_pods == sorted(in_pods)
    await tab.click("th[data-key=pids] button")
    assert await tab.value("document.querySelector('th[data-key=name]').hasAttribute('aria-sort')") is False
    tasks = [int(text) for text in await tab.value(scene.column(11))]
    assert tasks == sorted(tasks, reverse=True)
    await tab.click("th[data-key=pids] button")
    tasks = [int(text) for text in await tab.value(scene.column(11))]
    assert tasks == sorted(tasks)

    await tab.value("document.activeElement.blur()")
    await tab.key("/")
    assert await tab.value("document.activeElement.id") == "search"
    await tab.call("Input.insertText", text="docker registry")
    await tab.until(_ROWS, lambda rows: rows == 1)
    await tab.key("Escape")
    await tab.until(_ROWS, lambda rows: rows == len(world.paths()))
    await tab.call("Input.insertText", text="no such thing")
    await tab.until("document.getElementById('none').innerText", lambda text: "no such thing" in text)


async def test_containers_come_and_go(scene: Scene) -> None:
    tab, world = scene.page, scene.world
    gone = world.paths()[0]
    await tab.value(f"document.querySelector('#tree a[data-path=\"{gone}\"]').click()")
    await tab.until("document.getElementById('gone').hidden")
    world.gone.add(gone)
    await tab.until(_FIRST_COLUMN, lambda paths: gone not in paths)
    await tab.until("!document.getElementById('gone').hidden")
    assert await tab.value("document.getElementById('name').innerText") == "app"
    world.gone.discard(gone)
    await tab.until(_FIRST_COLUMN, lambda paths: gone in paths)
    await tab.until("document.getElementById('gone').hidden")


async def test_light_dark_and_as_the_system_has_it(scene: Scene) -> None:
    tab = scene.page
    colour = "getComputedStyle(document.body).backgroundColor"
    await tab.prefers("light")
    light = await tab.value(colour)
    await tab.prefers("dark")
    dark = await tab.value(colour)
    assert light != dark
    await tab.click("#theme")
    assert await tab.value("document.getElementById('theme').innerText") == "Dark"
    await tab.click("#theme")
    assert await tab.value(colour) == light  # though the system is dark
    await tab.call("Page.reload")
    await tab.until(f"document.readyState === 'complete' && {_ROWS}")
    assert await tab.value(colour) == light  # it was remembered


async def test_it_fits_a_phone(scene: Scene) -> None:
    tab = scene.page
    await tab.size(375, 812, phone=True)
    await tab.call("Page.reload")
    await tab.until(f"document.readyState === 'complete' && {_ROWS}")
    assert await tab.value("document.documentElement.scrollWidth") == 375
    assert await tab.value("document.getElementById('groups').open") is False
    widths = await tab.value("[...document.querySelectorAll('.plot')].map(p => p.getBoundingClientRect().width)")
    assert len(widths) == 6
    assert all(300 < width <= 375 for width in widths)
    await tab.click("#groups summary")
    await tab.until("document.querySelector('#tree a').getBoundingClientRect().height >= 36")
    shown = "[...document.querySelectorAll('button, input')].filter(b => b.offsetParent)"
    assert min(await tab.value(f"{shown}.map(b => b.getBoundingClientRect().height)")) >= 24


async def test_docker_shows_docker_and_an_address_can_be_kept(scene: Scene) -> None:
    tab = scene.page
    await tab.call("Page.navigate", url=f"{scene.url}/docker/")
    await tab.until(_ROWS, lambda rows: rows == 3)
    await tab.call("Page.navigate", url=f"{scene.url}/docker/builder")
    await tab.until("document.getElementById('name')?.innerText", lambda name: name == "builder")
    path = scene.world.paths()[2]
    await tab.call("Page.navigate", url=f"{scene.url}/containers{path}")
    await tab.until("document.querySelector('#tree a[aria-current]')?.dataset.path", lambda found: found == path)


async def test_a_server_that_went_and_came_is_said_and_gets_over(scene: Scene) -> None:
    """What the script does without an answer: it says so, and goes on when there is one."""
    tab = scene.page
    await tab.value("window.kept = window.fetch; window.fetch = () => Promise.reject(new Error('nobody'))")
    await tab.until("document.getElementById('state').innerText", lambda text: text.startswith("No answer (nobody)"))
    await tab.value("window.fetch = window.kept")
    await tab.until("document.getElementById('state').innerText", lambda text: text.startswith("Live"))


async def test_what_was_kept_before_is_drawn_at_once(scene: Scene) -> None:
    tab, kept = scene.page, scene.sampler.history
    assert kept.duration == 600
    for _ in range(300):
        kept.add(scene.world.read(PARTS))
    await tab.call("Page.reload")
    await tab.until("document.querySelector('#plot-cpu path.line')?.getAttribute('d').split('L').length > 200")
    spans = await tab.value("[...document.querySelectorAll('#spans button')].map(b => b.innerText)")
    assert spans == ["1 min", "2 min", "10 min"]
