"""/logs/: the node's log directory, and nothing beside it."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from multidict import MultiDict

from kubelet import beneath
from kubelet.server import node_logs
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
    assert (await world.get("/logs/%00"))[0] == 404
    assert (await world.get("/logs"))[0] == 200  # led to /logs/


@pytest.mark.parametrize("path", ["out", "away/secret", "..%2fsecret", "away/", "%2e%2e/secret", "%2fetc%2fpasswd"])
async def test_what_leads_out_is_refused(world: World, path: str) -> None:
    status, text = await world.get(f"/logs/{path}")
    assert status in (403, 404), text
    assert "no\n" not in text


def test_a_link_that_was_put_there_after_the_look_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "file").write_text("no\n")
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "link").symlink_to(tmp_path / "away")
    (tmp_path / "log" / "file").symlink_to(tmp_path / "away" / "file")
    for path in ("link/file", "file", "link"):
        with pytest.raises(OSError):
            beneath.open_below(str(tmp_path / "log"), path)


JOURNALCTL = """#!/bin/sh
echo $$ > {folder}/pid
echo "$@"
{more}
"""


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    def write(more: str) -> None:
        program = tmp_path / "bin" / "journalctl"
        program.write_text(JOURNALCTL.format(folder=tmp_path, more=more))
        program.chmod(0o755)

    return write


async def test_the_journal_comes_in_pieces_and_is_not_asked_on(tmp_path: Path, journal: Callable[[str], None]) -> None:
    async with serving(tmp_path, log_query=True) as world:
        journal("exit 1")
        status, text = await world.get("/logs/?query=kubelet")
        assert (status, text.split()[-1]) == (200, "--unit=kubelet")
        journal("exec tail -f /dev/null")
        async with asyncio.timeout(10):
            async with world.session.get(world.url + "/logs/?query=kubelet") as answer:
                assert (await answer.content.readline()).endswith(b"--unit=kubelet\n")
            while Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists():
                await asyncio.sleep(0.01)


async def test_a_journal_that_says_nothing(
    tmp_path: Path, journal: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_logs, "_QUERY_SECONDS", 0.2)
    journal("exec tail -f /dev/null")
    async with serving(tmp_path, log_query=True) as world:
        text = (await world.get("/logs/?query=kubelet"))[1]
        assert text.endswith("journalctl gave no answer within 0.2 s\n")


async def test_the_journal_is_asked_only_where_it_is_allowed(world: World) -> None:
    assert (await world.get("/logs/?query=kubelet"))[0] == 403


ODD: list[dict[str, str]] = [
    {"query": "x", "tailLines": "9" * 5000},
    {"query": "x", "pattern": "a\0b"},
    {"query": "x", "sinceTime": "0001-01-01T00:00:00+23:00"},
    {"query": "x", "sinceTime": "now"},
]


def test_a_query_as_journalctl_has_it() -> None:
    query = MultiDict(query="kubelet", tailLines="5", boot="-1", pattern="error", sinceTime="2026-01-02T03:04:05+01:00")
    query.add("query", "containerd.service")
    assert journal_command(query) == [
        "journalctl", "--utc", "--no-pager", "--output=short-precise", "--since=2026-01-02 02:04:05", "--lines=5",
        "--boot=-1", "--grep=error", "--unit=kubelet", "--unit=containerd.service",
    ]  # fmt: skip
    for bad in ({"query": "a b"}, {"query": "x", "boot": "1"}, {"query": "x", "tailLines": "-1"}, *ODD):
        with pytest.raises(Refusal):
            journal_command(MultiDict(bad))
