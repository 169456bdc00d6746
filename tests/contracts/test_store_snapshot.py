"""`wherry store snapshot`, `restore`, `ls` and `get`, from and into both stores."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from apiserver import commands, config
from apiserver.store import Committed, Compacted, Op, Stored, opening, snapshot
from apiserver.store.etcd_restoring import into_etcd
from kube.errors import Retry, UsageError
from tests.etcd import EtcdServer, running
from tests.requirements import requires

KINDS = ["sqlite", "etcd"]
OBJECTS = {
    "/registry/configmaps/default/a": b'{"kind":"ConfigMap","data":{"x":",\\"value\\":"}}',
    '/registry/configmaps/default/b,"value":': b'{"kind":"ConfigMap"}',
    "/registry/events/default/e": b'{"kind":"Event"}',
    "/registry/odd/binary": bytes(range(256)),
    "/registry/odd/lines": b'{"two":\n"lines"}',
    "/registry/pods/default/ä": b'{"kind":"Pod","big":123456789012345678901234567890}',
}


@pytest.fixture(scope="module")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    requires("etcd")
    with running(tmp_path_factory.mktemp("etcd")) as server:
        yield server


Flags = list[str]


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> object:
    """`place(kind)`: the flags that name a fresh store."""

    def make(kind: str) -> Flags:
        if kind == "sqlite":
            return ["--data-dir", str(tmp_path / uuid.uuid4().hex)]
        url = request.getfixturevalue("etcd_server").url
        return ["--etcd-servers", url, "--etcd-prefix", f"/{uuid.uuid4().hex}"]

    return make


def fill(flags: Flags, objects: dict[str, bytes] = OBJECTS) -> int:
    """The version of the last write."""

    async def write() -> int:
        async with opening.configured(config.load(flags)) as store:
            result = None
            for key, value in objects.items():
                result = await store.txn([Op(key, value, 0)])
            assert isinstance(result, Committed)
            return result.rvs[-1]

    return asyncio.run(write())


def load(flags: Flags) -> dict[str, tuple[bytes, int]]:
    async def read() -> dict[str, tuple[bytes, int]]:
        async with opening.configured(config.load(flags)) as store:
            return {entry.key: (entry.value, entry.rv) for entry in (await store.load()).entries}

    return asyncio.run(read())


@pytest.mark.parametrize(("source", "target"), list(itertools.product(KINDS, KINDS)))
def test_what_was_taken_is_put_back(source: str, target: str, place, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    old, new, file = place(source), place(target), tmp_path / "cluster.snapshot"
    rv = fill(old)
    assert commands.store(["snapshot", str(file), *old]) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert commands.store(["restore", str(file), *new]) == 0
    back = load(new)
    assert {key: value for key, (value, _) in back.items()} == OBJECTS
    assert min(version for _, version in back.values()) > rv + (1 << 30)
    with pytest.raises(UsageError, match="holds "):
        commands.store(["restore", str(file), *new])
    assert load(new) == back
    capsys.readouterr()
    assert commands.store(["ls", "/registry/configmaps", *new]) == 0
    assert capsys.readouterr().out.splitlines() == [key for key in OBJECTS if "configmaps" in key]
    assert commands.store(["get", "/registry/events/default/e", *new]) == 0
    assert capsys.readouterr().out == '{\n  "kind": "Event"\n}\n'
    assert commands.store(["get", "/registry/events/default/f", *new]) == 1
    assert commands.store(["ls", "/registry/conf", *new]) == 1

    async def goes_on() -> None:
        async with opening.configured(config.load(new)) as store:
            with pytest.raises(Compacted):  # what somebody saw of the old store is no place to resume from
                await anext(store.watch(rv))
            with pytest.raises(Compacted):
                await store.load(at=rv)
            a, seen = back["/registry/configmaps/default/a"][1], await store.current()
            result = await store.txn([Op("/registry/configmaps/default/a", b"{}", a)])
            assert isinstance(result, Committed)
            assert result.rvs[0] > max(version for _, version in back.values())
            batch = await anext(store.watch(seen))
            assert batch.changes[-1].rv == result.rvs[0]

    asyncio.run(goes_on())


@pytest.mark.parametrize("how", ["cut", "cut after a block", "altered", "foreign", "newer"])
def test_a_file_that_is_not_whole_is_refused_before_anything_is_written(  # type: ignore[no-untyped-def]
    how: str, place, tmp_path: Path
) -> None:
    flags, file, target = place("sqlite"), tmp_path / "x", tmp_path / "restored"
    fill(flags)
    commands.store(["snapshot", str(file), *flags])
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    match how:
        case "cut":
            file.write_bytes(file.read_bytes()[:-20])
        case "cut after a block":
            file.write_bytes(gzip.compress(b"".join(lines[:-2])))
        case "altered":
            file.write_bytes(gzip.compress(b"".join(lines).replace(b"ConfigMap", b"ConfigNap", 1)))
        case "foreign":
            file.write_bytes(gzip.compress(b"hello\n"))
        case "newer":
            file.write_bytes(gzip.compress(b"".join(lines).replace(b'"version":1', b'"version":2', 1)))
    with pytest.raises(UsageError, match=f"{file}: it"):
        commands.store(["restore", str(file), "--data-dir", str(target)])
    assert not target.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_written_is_named(kind: str, place) -> None:  # type: ignore[no-untyped-def]
    flags = place(kind)
    fill(flags)
    with pytest.raises(UsageError, match="/nowhere/x: No such file or directory"):
        commands.store(["snapshot", "/nowhere/x", *flags])


def test_a_running_server_s_store_is_read_but_not_written(place, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    flags, file = place("sqlite"), tmp_path / "x"

    async def while_open() -> None:
        async with opening.configured(config.load(flags)) as store:
            await store.txn([Op("/registry/pods/default/a", b"{}", 0)])
            assert await asyncio.to_thread(commands.store, ["snapshot", str(file), *flags]) == 0
            with pytest.raises(UsageError, match=r"a server has .* open; stop it first"):
                await asyncio.to_thread(commands.store, ["restore", str(file), *flags])

    asyncio.run(while_open())
    assert snapshot.check(file)[1] == 1
    assert [stored.key for stored in snapshot.read(file)] == ["/registry/pods/default/a"]


def test_a_snapshot_that_fails_leaves_the_one_before(place, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "x"
    header = snapshot.Header(640, "now", "sqlite")
    assert snapshot.write(file, header, [Stored("/a", b"{}", 1)]) == 1
    before = file.read_bytes()

    def broken() -> Iterator[Stored]:
        yield Stored("/b", b"{}", 1)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        snapshot.write(file, header, broken())
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_a_restore_into_etcd_that_was_cut_off_is_not_served_and_begins_anew(place, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    flags = place("etcd")
    loaded = config.load(flags)
    header = snapshot.Header(640, "now", "sqlite")
    objects = [Stored(f"/registry/pods/default/{n:03}", b"{}", 1) for n in range(250)]

    def cut() -> Iterator[Stored]:
        yield from objects[:150]
        raise OSError(5, "Input/output error")

    with ExitStack() as stack:
        stack.enter_context(pytest.raises(ExceptionGroup))
        asyncio.run(into_etcd(opening.access(loaded), opening.prefix(loaded), header, cut(), 60))
    with pytest.raises(Retry, match="was cut off"):
        load(flags)
    asyncio.run(into_etcd(opening.access(loaded), opening.prefix(loaded), header, objects[100:], 60))
    assert list(load(flags)) == [stored.key for stored in objects[100:]]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["frob"], "frob: unknown; there are snapshot, restore, ls, get"),
        (["snapshot", "--data-dir", "/x"], "snapshot needs a FILE"),
        (["get"], "get needs a KEY"),
        (["restore", "/nowhere/x"], "/nowhere/x: No such file"),
        (["ls", "--data-dir", "/nowhere"], "there is no store at /nowhere/state.db"),
        (["ls", "--data-dirr", "/nowhere"], "--data-dirr: unknown flag"),
        (["ls", "--etcd-servers", "http://127.0.0.1:1"], "no connection to 127.0.0.1:1"),
        (["ls", "--etcd-servers", "ftp://x"], "is no etcd endpoint"),
        (["ls", "--etcd-servers", "https://x", "--etcd-keyfile", "/k"], "belong together"),
        (["ls", "--etcd-servers", "https://x", "--etcd-cafile", "/nowhere"], "--etcd-cafile /nowhere: No such file"),
        (["ls", "--etcd-servers", "http://x", "--etcd-prefix", "/"], "--etcd-prefix: all keys are below it"),
    ],
)
def test_mistakes_are_named(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        commands.store(argv)


def test_a_store_that_refuses_leaves_the_reason(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(UsageError, match="cannot be read"):
        commands.store(["ls", "--data-dir", str(tmp_path)])
