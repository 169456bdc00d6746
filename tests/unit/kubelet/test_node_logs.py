"""/logs/: the node's log directory, and nothing beside it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from multidict import MultiDict

from kubelet.server.node_logs import journal_command
from kubelet.streams.door import Refusal
from tests.unit.kubelet.serving import World, serving


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    logs = tmp_path / "log"
    (logs / "pods" / "one").mkdir(parents=True)
    (logs / "syslog").write_text("it rains\n" * 100_000)
    (logs / "pods" / "one" / "0.log").write_text("hello\n")
    (logs / "link.log").symlink_to("pods/one/0.log")
    (tmp_path / "secret").write_text("no\n")
    (logs / "out").symlink_to(tmp_path / "secret")
    (logs / "away").symlink_to(tmp_path)
    async with serving(tmp_path) as found:
        yield found


async def test_directories_and_files(world: World) -> None:
    status, page = await world.get("/logs/")
    assert status == 200
    assert '<a href="pods/">pods/</a>' in page
    assert '<a href="syslog">syslog</a>' in page
    assert (await world.get("/logs/syslog"))[1] == "it rains\n" * 100_000
    assert await world.get("/logs/link.log") == (200, "hello\n")
    assert (await world.get("/logs/absent"))[0] == 404
    assert (await world.get("/logs"))[0] == 200  # led to /logs/


@pytest.mark.parametrize("path", ["out", "away/secret", "..%2fsecret", "away/", "%2e%2e/secret", "%2fetc%2fpasswd"])
async def test_what_leads_out_is_refused(world: World, path: str) -> None:
    status, text = await world.get(f"/logs/{path}")
    assert status in (403, 404), text
    assert "no\n" not in text


async def test_the_journal_is_asked_only_where_it_is_allowed(world: World) -> None:
    assert (await world.get("/logs/?query=kubelet"))[0] == 403


def test_a_query_as_journalctl_has_it() -> None:
    query = MultiDict(query="kubelet", tailLines="5", boot="-1", pattern="error", sinceTime="2026-01-02T03:04:05+01:00")
    query.add("query", "containerd.service")
    assert journal_command(query) == [
        "journalctl", "--utc", "--no-pager", "--output=short-precise", "--since=2026-01-02 02:04:05", "--lines=5",
        "--boot=-1", "--grep=error", "--unit=kubelet", "--unit=containerd.service",
    ]  # fmt: skip
    for bad in ({"query": "a b"}, {"query": "x", "boot": "1"}, {"query": "x", "tailLines": "-1"}):
        with pytest.raises(Refusal):
            journal_command(MultiDict(bad))
