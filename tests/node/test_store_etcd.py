"""The store on an etcd that is killed, stopped, lost, restored, full, and one of three."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from apiserver.store import Committed, Op, StoreAway, StoreFailed, StoreFull, StoreLost, StoreUnsure, TooLarge
from apiserver.store import etcd as etcd_store
from apiserver.store.etcd import EtcdStore, open_store
from kube import certificates
from kube import etcd as client
from kube.etcd import Access
from tests.etcd import EtcdServer, running
from tests.ports import free_ports
from tests.requirements import requires

DEADLINE = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    requires("etcd")
    with running(tmp_path) as server:
        yield server


class Follower:
    """A watch and the state it has led to, as the cache keeps one."""

    def __init__(self) -> None:
        self.state: dict[str, bytes] = {}
        self.rvs: list[int] = []
        self.rv = 0
        self.moved = asyncio.Event()

    async def run(self, store: EtcdStore) -> None:
        snapshot = await store.load()
        self.rv = snapshot.rv
        self.moved.set()
        self.moved = asyncio.Event()
        self.state = {entry.key: entry.value for entry in snapshot.entries}
        async for batch in store.watch(snapshot.rv):
            for change in batch.changes:
                self.rvs.append(change.rv)
                if change.value is None:
                    del self.state[change.key]
                else:
                    self.state[change.key] = change.value
            self.rv = batch.rv
            self.moved.set()
            self.moved = asyncio.Event()

    async def reached(self, rv: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while self.rv < rv:
                await self.moved.wait()


@asynccontextmanager
async def followed(*urls: str, **options: float) -> AsyncIterator[tuple[EtcdStore, Follower]]:
    follower = Follower()
    async with open_store(Access(urls), "/registry", root="", **options) as store, asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.run()), group.create_task(follower.run(store))]
        await follower.reached(1)
        yield store, follower
        for task in tasks:
            task.cancel()


async def put(store: EtcdStore, key: str, value: bytes = b"{}") -> int:
    result = await store.txn([Op(key, value)])
    assert isinstance(result, Committed)
    return result.rvs[0]


async def put_in_time(store: EtcdStore, key: str, value: bytes = b"{}") -> int:
    """As soon as the store takes it."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await put(store, key, value)
            except StoreFailed:
                await asyncio.sleep(0.05)


@contextmanager
def lost() -> Iterator[list[str]]:
    """What is inside must end with StoreLost; the list has its words."""
    words: list[str] = []
    with pytest.raises(ExceptionGroup) as caught:
        yield words
    found = caught.value.subgroup(StoreLost)
    assert found, repr(caught.value)
    words.append(repr(found))


async def for_ever() -> None:
    async with asyncio.timeout(DEADLINE):
        await asyncio.get_running_loop().create_future()


async def until_trouble(store: EtcdStore, wanted: bool) -> None:
    async with asyncio.timeout(DEADLINE):
        while (store.trouble() is not None) is not wanted:
            await asyncio.sleep(0.02)


async def test_a_killed_etcd_is_waited_for(server: EtcdServer) -> None:
    """Writes are refused and say that nothing was written; the watch goes on where it was; nothing is started again."""
    async with followed(server.url) as (store, follower):
        await follower.reached(await put(store, "/a", b"1"))
        server.kill()
        await until_trouble(store, True)
        with pytest.raises(StoreAway, match="no connection to 127"):
            await put(store, "/b", b"1")
        with pytest.raises(StoreAway):
            await store.load()
        server.start()
        rv = await put_in_time(store, "/a", b"2")
        await follower.reached(rv)
        await until_trouble(store, False)
        assert follower.state == {"/a": b"2"}
        assert len(set(follower.rvs)) == len(follower.rvs) == 2


async def test_of_writes_that_a_kill_cuts_off_none_is_reported_wrongly(server: EtcdServer) -> None:
    """Acknowledged ones are there, refused ones are not, and unsure ones are the only ones that may be either."""
    acknowledged: dict[str, int] = {}
    refused: set[str] = set()
    unsure: set[str] = set()

    async with followed(server.url) as (store, follower):

        async def write(name: int) -> None:
            for step in range(400):
                key = f"/k/{name}/{step}"
                try:
                    acknowledged[key] = await put(store, key)
                except StoreUnsure:
                    unsure.add(key)
                    return
                except StoreAway:
                    refused.add(key)
                    return

        async with asyncio.TaskGroup() as group:
            for name in range(16):
                group.create_task(write(name))
            while len(acknowledged) < 1500:
                await asyncio.sleep(0.01)
            server.kill()
        assert refused | unsure
        server.start()
        await follower.reached(await put_in_time(store, "/last"))
        there = {entry.key: entry.rv for entry in (await store.load("/k/")).entries}
        assert acknowledged.items() <= there.items()
        assert not refused & there.keys()
        assert there.keys() - acknowledged.keys() <= unsure
        assert follower.state.keys() == there.keys() | {"/last"}


async def test_a_stopped_etcd_makes_a_write_unsure_and_then_goes_on(
    server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "WRITE_SECONDS", 0.5)
    async with followed(server.url) as (store, follower):
        await put(store, "/a", b"1")
        server.kill(signal.SIGSTOP)
        with pytest.raises(StoreUnsure, match="lost while it was writing"):
            await put(store, "/a", b"2")
        server.kill(signal.SIGCONT)
        await follower.reached(await put_in_time(store, "/a", b"3"))
        assert follower.state == {"/a": b"3"}


async def test_an_etcd_that_lost_its_data_is_noticed(server: EtcdServer) -> None:
    with lost() as words:
        async with followed(server.url) as (store, follower):
            for n in range(20):
                await put(store, f"/{n}")
            await follower.reached(await put(store, "/last"))
            server.kill()
            server.forget()
            server.start()
            await for_ever()
    assert words


async def test_an_etcd_restored_from_an_older_snapshot_is_noticed_though_others_wrote_on(
    server: EtcdServer, tmp_path: Path
) -> None:
    """Its revision is ahead of ours by the time we are back: only what it has at our revision gives it away."""
    requires("etcdctl")
    etcdctl(server, "snapshot", "save", str(tmp_path / "old"))
    with lost() as words:
        async with followed(server.url) as (store, follower):
            for n in range(20):
                await put(store, f"/{n}")
            await follower.reached(await put(store, "/last"))
            server.kill()
            server.forget()
            etcdctl(
                server, "snapshot", "restore", str(tmp_path / "old"), "--data-dir", str(server.data),
                "--name", server.name, "--initial-cluster", f"{server.name}={server.peer}",
                "--initial-advertise-peer-urls", server.peer,
            )  # fmt: skip
            ports, server.ports = server.ports, [*free_ports(1), server.ports[1]]
            server.start()
            for n in range(60):
                etcdctl(server, "put", f"/registry/other/{n}", "{}")
            server.kill()
            server.ports = ports
            server.start()
            await for_ever()
    assert "history" in words[0]


def etcdctl(server: EtcdServer, *words: str) -> str:
    environment = {**os.environ, "ETCDCTL_API": "3"}
    argv = ["etcdctl", "--endpoints", server.url, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_history_compacted_by_others_while_we_were_cut_off_is_noticed(
    server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lost() as words:
        async with followed(server.url) as (store, follower):
            await follower.reached(await put(store, "/a"))
            ports = server.ports
            server.kill()
            server.ports = [*free_ports(1), ports[1]]
            server.start()
            async with open_store(Access((server.url,)), "/registry", root="") as other:
                for _ in range(5):
                    rv = await put(other, "/a")
                await other.compact(rv)
            server.kill()
            server.ports = ports
            server.start()
            await for_ever()
    assert words


async def test_one_of_three_may_fail(tmp_path: Path) -> None:
    requires("etcd")
    members = [EtcdServer(tmp_path, name=f"m{n}") for n in range(3)]
    for member in members:
        member.cluster = ",".join(f"{one.name}={one.peer}" for one in members)
    with ExitStack() as stack:
        for member in members:
            stack.callback(member.kill)
            member.start(wait=False)
        for member in members:
            member.wait_healthy()
        async with followed(*(member.url for member in members)) as (store, follower):
            for member in (members[0], members[1], members[2]):
                await follower.reached(await put_in_time(store, f"/{member.name}", b"before"))
                member.kill()
                await follower.reached(await put_in_time(store, f"/{member.name}", b"without"))
                member.start()
            assert follower.state == {f"/m{n}": b"without" for n in range(3)}


async def test_a_full_etcd_refuses_and_recovers(tmp_path: Path) -> None:
    requires("etcd", "etcdctl")
    with running(tmp_path, "--quota-backend-bytes", str(8 << 20)) as server:
        async with followed(server.url) as (store, follower):
            kept = await put(store, "/kept", b"1")
            with pytest.raises(StoreFull, match="database space exceeded"):
                await put_for_ever(store, "/fat", bytes(1 << 20))
            assert "space" in (store.trouble() or "")
            assert (await store.load("/kept")).entries[0].rv == kept
            await store.compact(await store.current())
            etcdctl(server, "defrag")
            etcdctl(server, "alarm", "disarm")
            await follower.reached(await put_in_time(store, "/kept", b"2"))
            await until_trouble(store, False)


async def put_for_ever(store: EtcdStore, key: str, value: bytes) -> None:
    while True:
        await put(store, key, value)


async def test_what_is_too_large_for_etcd_is_said_so_and_harms_nobody_else(server: EtcdServer) -> None:
    async with followed(server.url) as (store, _):
        async with asyncio.TaskGroup() as group:
            large = group.create_task(refusal(store, "/large", bytes(1_700_000)))
            larger = group.create_task(refusal(store, "/larger", bytes(3_000_000)))
            others = [group.create_task(put(store, f"/{n}")) for n in range(50)]
        assert [type(one.result()) for one in (large, larger)] == [TooLarge, TooLarge]
        assert len({task.result() for task in others}) == 50
        assert store.trouble() is None


async def refusal(store: EtcdStore, key: str, value: bytes) -> Exception:
    with pytest.raises(StoreFailed) as caught:
        await put(store, key, value)
    return caught.value


async def test_servers_take_turns_compacting(server: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """As upstream: what is older than the last turn goes, whoever's turn it was."""
    monkeypatch.setattr(etcd_store, "HEALTH_EVERY", 0.05)
    async with followed(server.url, compact_every=0.2) as (one, _), followed(server.url, compact_every=0.2) as (two, _):
        first = await put(one, "/a")
        async with asyncio.timeout(DEADLINE):
            while await one.oldest() <= first:
                await put(two, "/a")
                await asyncio.sleep(0.02)
        assert "/registry/a" in etcdctl(server, "get", "/registry", "--prefix", "--keys-only")
        assert etcdctl(server, "get", "compact_rev_key", "--print-value-only").strip().isdigit()


async def test_an_etcd_that_asks_for_certificates(tmp_path: Path) -> None:
    requires("etcd")
    authority = certificates.authority("etcd-ca")
    pairs = {
        "server": certificates.issue(authority, "etcd", sans=["127.0.0.1"]),
        "client": certificates.issue(authority, "kube-apiserver-etcd-client"),
        "other": certificates.authority("other-ca"),
    }
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    for name, pair in pairs.items():
        (tmp_path / f"{name}.crt").write_bytes(pair.certificate)
        (tmp_path / f"{name}.key").write_bytes(pair.key)
    ca, crt, key = (str(tmp_path / name) for name in ("ca.crt", "client.crt", "client.key"))
    flags = ["--cert-file", str(tmp_path / "server.crt"), "--key-file", str(tmp_path / "server.key")]
    server = EtcdServer(tmp_path, (*flags, "--client-cert-auth", "--trusted-ca-file", ca), scheme="https")
    server.start()
    try:
        async with opened_in_time(Access((server.url,), ca, crt, key)) as store:
            assert (await store.load()).entries == ()
            rv = await put(store, "/a")
            assert [entry.rv for entry in (await store.load()).entries] == [rv]
        for access in (Access((server.url,), ca), Access((server.url,), str(tmp_path / "other.crt"), crt, key)):
            with pytest.raises(StoreAway, match=r"no connection to 127|does not answer"):
                async with open_store(access, "/registry"):
                    pass
    finally:
        server.kill()


@asynccontextmanager
async def opened_in_time(access: Access) -> AsyncIterator[EtcdStore]:
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    store = await stack.enter_async_context(open_store(access, "/registry", root=""))
                    break
                except StoreAway:
                    await asyncio.sleep(0.1)
        yield store


async def test_strangers_keys_move_the_watch_but_are_not_seen(server: EtcdServer) -> None:
    requires("etcdctl")
    async with followed(server.url) as (store, follower):
        etcdctl(server, "put", "/registry2/a", "x")
        etcdctl(server, "put", "/registry/by-hand", '{"kind":"Pod"}')
        rv = await store.current()
        await follower.reached(rv)
        assert follower.state == {"/by-hand": b'{"kind":"Pod"}'}
        assert [entry.key for entry in (await store.load()).entries] == ["/by-hand"]
        assert follower.rvs == [(await store.load()).entries[0].rv]
        assert isinstance(await store.txn([Op("/by-hand", None, follower.rvs[0])]), Committed)
        await follower.reached(await store.current())
        assert follower.state == {}
