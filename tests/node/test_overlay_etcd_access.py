"""Getting at etcd: certificates, users and roles, and what is said when it cannot be done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from kube import certificates
from kube.errors import UsageError
from kube.etcd import Access
from overlay.model import NotYet
from overlay.registry import etcd
from tests.etcd import EtcdServer, running
from tests.node.etcd_managers import CONFIG, DEADLINE, PREFIX, Etcdctl, offer
from tests.requirements import requires

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture
def ctl(tmp_path: Path) -> Iterator[Etcdctl]:
    requires("etcd", "etcdctl")
    with running(tmp_path) as server:
        yield Etcdctl(server)


async def test_what_is_missing_or_wrong_is_said_with_its_remedy(ctl: Etcdctl) -> None:
    access = Access((ctl.server.url,))
    async with etcd.opened(access, PREFIX) as subnets:
        with pytest.raises(NotYet, match=f"etcdctl put {PREFIX}/config"):
            await subnets.network()
        for value, words in (
            ({"Network": "10.5.0.0/29"}, "too small"),
            ({"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fc00::/48"}, "--kube-subnet-mgr"),
            ({**CONFIG, "SubnetMin": "10.9.0.0"}, "SubnetMin"),
        ):
            ctl.config(value)
            with pytest.raises(UsageError, match=words):
                await subnets.network()
    async with etcd.opened(Access(("http://127.0.0.1:1",)), PREFIX) as subnets:
        with pytest.raises(NotYet, match=r"no connection to 127\.0\.0\.1:1"):
            await subnets.network()


async def test_an_etcd_that_asks_for_certificates(tmp_path: Path) -> None:
    requires("etcd")
    authority = certificates.authority("etcd-ca")
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    for name, pair in {
        "server": certificates.issue(authority, "etcd", sans=["127.0.0.1"]),
        "client": certificates.issue(authority, "flannel"),
    }.items():
        (tmp_path / f"{name}.crt").write_bytes(pair.certificate)
        (tmp_path / f"{name}.key").write_bytes(pair.key)
    ca, crt, key = (str(tmp_path / name) for name in ("ca.crt", "client.crt", "client.key"))
    flags = ["--cert-file", str(tmp_path / "server.crt"), "--key-file", str(tmp_path / "server.key")]
    server = EtcdServer(tmp_path, (*flags, "--client-cert-auth", "--trusted-ca-file", ca), scheme="https")
    server.start()
    try:
        async with etcd.opened(Access((server.url,), ca, crt, key), PREFIX) as subnets, asyncio.timeout(DEADLINE):
            words = ""
            while "has no" not in words:
                with pytest.raises(NotYet) as caught:
                    await subnets.network()
                words = str(caught.value)
        async with etcd.opened(Access((server.url,), ca), PREFIX) as subnets:
            with pytest.raises(NotYet, match="etcd"):
                await subnets.network()
        with pytest.raises(UsageError, match=r"--etcd-certfile .*nowhere.*readable"):
            async with etcd.opened(Access((server.url,), ca, "/nowhere", key), PREFIX):
                pass
    finally:
        server.kill()


async def test_users_and_roles(tmp_path: Path) -> None:
    requires("etcd", "etcdctl")
    with running(tmp_path, "--auth-token-ttl", "2") as server:
        ctl = Etcdctl(server)
        ctl.config()
        for words in (
            "user add root:rootpw",
            "user add flannel:secret",
            "user add reader:secret",
            "role add overlay",
            f"role grant-permission --prefix overlay readwrite {PREFIX}/",
            "role add look",
            f"role grant-permission --prefix look read {PREFIX}/",
            "user grant-role root root",
            "user grant-role flannel overlay",
            "user grant-role reader look",
            "auth enable",
        ):
            ctl(*words.split())

        def access(name: str, password: str = "secret") -> Access:
            return Access((server.url,), username=name, password=password)

        async with etcd.opened(access("flannel"), PREFIX, ttl=60) as subnets:
            await subnets.network()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(subnets.run(lambda: None))
                async with asyncio.timeout(DEADLINE):
                    await subnets.synced.wait()
                own = await subnets.own(offer(11))
                await asyncio.sleep(3)  # the token expires: that takes this long
                subnets._margin = 60
                assert (await subnets.announce(own.leases)).said
                task.cancel()
        for wrong, words in ((access("flannel", "x"), "--etcd-password"), (access("nobody"), "--etcd-password")):
            async with etcd.opened(wrong, PREFIX) as subnets:
                with pytest.raises(NotYet, match=words):
                    await subnets.network()
        async with etcd.opened(Access((server.url,)), PREFIX) as subnets:
            with pytest.raises(NotYet, match="--etcd-username"):
                await subnets.network()
        async with etcd.opened(access("reader"), PREFIX) as subnets, asyncio.TaskGroup() as group:
            task = group.create_task(subnets.run(lambda: None))
            await subnets.network()
            await subnets.synced.wait()
            with pytest.raises(NotYet, match=r"permission denied.*readwrite"):
                await subnets.own(offer(12))
            task.cancel()
