"""flannel's etcd subnet manager on a real etcd: races, restarts, expiry, compaction, partitions, hand-written leases."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import signal
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

import pytest

from kube import etcd as client
from kube.errors import Retry
from linux.iptables.rules import Family
from overlay.model import NotYet, Vtep
from overlay.registry import memory
from tests.etcd import EtcdServer, running
from tests.node.etcd_managers import CONFIG, DEADLINE, DUAL, MAC, PREFIX, Etcdctl, Manager, manager, offer, subnet
from tests.requirements import requires

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    requires("etcd", "etcdctl")
    with running(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def ctl(shared: EtcdServer) -> Etcdctl:
    made = Etcdctl(shared)
    made("del", "--prefix", PREFIX)
    made.config()
    return made


async def test_a_subnet_is_taken_in_flannels_words_and_kept_over_a_restart(ctl: Etcdctl) -> None:
    async with manager(ctl.server.url) as one:
        own = await one.own(offer(11))
        said = await one.announced(own)
        assert said.again == pytest.approx(23 * 3600, abs=60), "a lease of 24 h, renewed an hour before its end"
        assert await one.own(offer(11, mac=99)) == own, "the VTEP that was announced stays"
        assert one.peers() == {}
    ((name, value),) = ctl.subnets().items()
    assert value == (
        '{"PublicIP":"192.168.0.11","PublicIPv6":null,"BackendType":"vxlan",'
        '"BackendData":{"VNI":1,"VtepMAC":"8e:1b:10:4f:22:0b"}}'
    )
    assert IPv4Network(name.replace("-", "/")) == subnet(own)
    assert IPv4Network(name.replace("-", "/")).subnet_of(IPv4Network("10.5.0.0/16"))
    assert not name.startswith("10.5.0.0"), "never the first subnet"
    assert ctl.lease_of(name)
    async with manager(ctl.server.url) as again:
        assert (await again.own(offer(11, mac=99))).leases[Family.V4].data == Vtep(1, MAC.format(11))
        assert subnet(await again.own(offer(11))) == subnet(own)
    assert list(ctl.subnets()) == [name]


async def test_both_families_share_a_key(ctl: Etcdctl) -> None:
    ctl.config(DUAL)
    async with manager(ctl.server.url) as one, manager(ctl.server.url) as two:
        own = await one.own(offer(11, dual=True))
        await two.own(offer(12, dual=True))
        await one.until(lambda: len(one.subnets.claims().leases) == 2)
        assert {lease.family for lease in one.subnets.claims().leases} == set(Family)
        half = await one.own(offer(11))
        assert list(half.leases) == [Family.V4]
        name = own.leases[Family.V4].node
        await one.announced(await one.own(offer(11, dual=True)))
        await one.announced(half)
        assert "fd00::11" in ctl.subnets()[name], "an underlay that has lost a family does not take it from the others"
    assert subnet(own, Family.V6).subnet_of(IPv6Network("fc00::/48"))
    names = list(ctl.subnets())
    assert f"{subnet(own)}&{subnet(own, Family.V6)}".replace("/", "-") in names


async def test_many_nodes_at_once_never_share_a_subnet(ctl: Etcdctl) -> None:
    """So few subnets that everybody wants the same: losers of a race look again, as flannel does not."""
    ctl.config({**CONFIG, "SubnetMax": "10.5.8.0"})
    async with contextlib.AsyncExitStack() as stack:
        managers = [await stack.enter_async_context(manager(ctl.server.url)) for _ in range(8)]
        owns = await asyncio.gather(*(one.own(offer(20 + n)) for n, one in enumerate(managers)))
        assert len({subnet(own) for own in owns}) == 8
        assert set(ctl.subnets()) == {str(subnet(own)).replace("/", "-") for own in owns}
        await managers[0].until(lambda: len(managers[0].peers()) == 7)
        async with manager(ctl.server.url) as late:
            with pytest.raises(NotYet, match=r"out of subnets.*10\.5\.8\.0.*SubnetMax"):
                await late.subnets.own(offer(99))
            ctl("del", f"{PREFIX}/subnets/{str(subnet(owns[3])).replace('/', '-')}")
            # two want the one that is free now: its owner of before, and the one that came late
            await late.until(lambda: len(late.peers()) == 7)
            assert subnet(await late.own(offer(99))) == subnet(owns[3])


@pytest.mark.parametrize("free", [True, False])
async def test_the_subnet_of_the_last_subnet_env_is_asked_for(ctl: Etcdctl, free: bool) -> None:
    before = {Family.V4: ip_network("10.5.200.0/24")}
    if not free:
        ctl.put("subnets/10.5.200.0-24", '{"PublicIP":"192.168.0.77","PublicIPv6":null,"BackendType":"host-gw"}')
    async with manager(ctl.server.url, previous=before) as one:
        assert (subnet(await one.own(offer(11))) == before[Family.V4]) is free


async def test_a_reservation_is_filled_in_and_stays_one(ctl: Etcdctl) -> None:
    ctl.put("subnets/10.5.77.0-24", '{"PublicIP":"192.168.0.11"}')
    async with manager(ctl.server.url) as one:
        own = await one.own(offer(11))
        assert subnet(own) == IPv4Network("10.5.77.0/24")
        assert (await one.announced(own)).again is None
    assert ctl.lease_of("10.5.77.0-24") == 0
    assert "8e:1b:10:4f:22:0b" in ctl.subnets()["10.5.77.0-24"]
    ctl.config({**CONFIG, "SubnetLen": 25})
    async with manager(ctl.server.url) as one:
        with pytest.raises(NotYet, match=r"10\.5\.77\.0-24 is reserved for this node and does not fit"):
            await one.subnets.own(offer(11))


async def test_a_subnet_that_fits_the_network_no_more_is_given_up(ctl: Etcdctl) -> None:
    async with manager(ctl.server.url) as one:
        old = await one.own(offer(11))
        ctl.config({**CONFIG, "Network": "10.6.0.0/16"})
        await one.until(lambda: one.woken > 2)
        assert await one.own(offer(11)) == old, "until the daemon has taken the new network up"
        await one.subnets.network()
        new = await one.own(offer(11))
        assert subnet(new).subnet_of(ip_network("10.6.0.0/16"))
    assert list(ctl.subnets()) == [str(subnet(new)).replace("/", "-")]


async def test_a_network_that_gets_ipv6_leaves_the_nodes_their_ipv4(ctl: Etcdctl) -> None:
    async with manager(ctl.server.url) as one:
        old = await one.own(offer(11))
        ctl.config(DUAL)
        await one.until(lambda: one.subnets._view.config != b"" and b"fc00" in (one.subnets._view.config or b""))
        await one.subnets.network()
        new = await one.own(offer(11, dual=True))
        assert subnet(new) == subnet(old)
        assert set(new.leases) == set(Family)
    assert list(ctl.subnets()) == [new.leases[Family.V4].node]


async def test_a_key_that_is_deleted_or_written_over_comes_back(ctl: Etcdctl, caplog: pytest.LogCaptureFixture) -> None:
    async with manager(ctl.server.url) as one:
        own = await one.own(offer(11))
        name = str(subnet(own)).replace("/", "-")
        good = ctl.subnets()[name]
        lease = ctl.lease_of(name)
        seen = one.woken
        ctl.put(f"subnets/{name}", '{"PublicIP":"1.2.3.4"}')
        await one.until(lambda: one.woken > seen)
        said = await one.announced(await one.own(offer(11)))
        assert said.mended
        assert (ctl.subnets()[name], ctl.lease_of(name)) == (good, lease)
        ctl("del", f"{PREFIX}/subnets/{name}")
        await one.until(lambda: "has expired or was deleted" in caplog.text)
        assert await one.own(offer(11)) != own, "the same, but of another revision"
        assert ctl.subnets() == {name: good}
        assert (await one.announced(await one.own(offer(11)))).mended == ()


async def test_leases_are_renewed_and_expire_when_nobody_does(ctl: Etcdctl) -> None:
    async with manager(ctl.server.url, ttl=2, renew_margin=1.5) as one, manager(ctl.server.url) as other:
        own = await one.own(offer(11))
        name = str(subnet(own)).replace("/", "-")
        lease = ctl.lease_of(name)
        renewed = 0
        async with asyncio.timeout(DEADLINE):
            while renewed < 2:
                said = await one.announced(own)
                renewed += len([line for line in said.said if "renewed" in line])
                await asyncio.sleep(min(said.again or 0, 1.0))
        assert ctl.lease_of(name) == lease
        await other.until(lambda: len(other.peers()) == 1)
        await other.until(lambda: other.peers() == {})
        await one.until(lambda: name not in ctl.subnets())
        assert subnet(await one.own(offer(11))) == subnet(own)


async def test_a_subnet_that_another_node_took_after_our_lease_had_expired_is_its_own(
    ctl: Etcdctl, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a suspend longer than the lease. Two nodes that both write the key would go on for ever."""
    async with manager(ctl.server.url) as late, manager(ctl.server.url) as other:
        old = await late.own(offer(11))
        name = old.leases[Family.V4].node
        ctl("lease", "revoke", f"{ctl.lease_of(name):x}")
        await other.until(lambda: other.peers() == {})
        other.subnets._previous = {Family.V4: subnet(old)}
        theirs = await other.own(offer(12))
        assert subnet(theirs) == subnet(old)
        value = ctl.subnets()[name]
        await late.until(lambda: late.peers() == {str(subnet(old)): "192.168.0.12"})
        with pytest.raises(Retry, match="is another node's by now"):
            await late.subnets.announce(old.leases)
        new = await late.own(offer(11))
        assert subnet(new) != subnet(old)
        assert "had expired, and 192.168.0.12 has the subnet now" in caplog.text
        assert (await late.announced(new)).mended == ()
        assert (await other.announced(theirs)).mended == ()
        assert ctl.subnets() == {name: value, new.leases[Family.V4].node: ctl.subnets()[new.leases[Family.V4].node]}
        assert late.peers() == {str(subnet(old)): "192.168.0.12"}


async def test_a_watch_behind_a_compaction_reads_everything_again(ctl: Etcdctl, shared: EtcdServer) -> None:
    """Stopped while the past goes: the watch's connection is cut, and what it asks for afterwards is gone."""
    async with manager(shared.url) as one:
        await one.own(offer(11))
        view = one.subnets._view
        for number in (31, 32):
            ctl.put(
                f"subnets/10.5.{number}.0-24",
                f'{{"PublicIP":"192.168.0.{number}","PublicIPv6":null,"BackendType":"host-gw"}}',
            )
        await one.until(lambda: len(one.peers()) == 2)
        revision = int(json.loads(ctl("get", "-w", "json", f"{PREFIX}/config"))["header"]["revision"])
        ctl("compact", str(revision))
        async with asyncio.timeout(DEADLINE):
            await view._follow(1, one.changed)  # returns: it asked for what is gone
        view.entries.clear()
        view._listed = 0
        await view.read()
        assert len(one.peers()) == 2


async def test_leases_of_others_are_read_or_named(ctl: Etcdctl) -> None:
    ctl.put(
        "subnets/10.5.34.0-24",
        '{"PublicIP":"192.168.0.34","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"4e:1b:10:4f:22:4d"}}',
    )
    ctl.put("subnets/10.5.35.0-24", '{"PublicIP":"192.168.0.35","BackendType":"ipsec"}')
    ctl.put("subnets/10.5.36.0-24", "nonsense")
    ctl.put("subnets/here/10.5.37.0", "{}")
    async with manager(ctl.server.url) as one:
        claims = one.subnets.claims()
        assert [(str(one.subnet), one.data) for one in claims.leases] == [
            ("10.5.34.0/24", Vtep(1, "4e:1b:10:4f:22:4d"))
        ]
        assert set(claims.refused) == {"10.5.35.0-24", "10.5.36.0-24", "here/10.5.37.0"}
        assert "'ipsec'" in claims.refused["10.5.35.0-24"]


async def test_two_nodes_with_one_public_ip_are_told(ctl: Etcdctl, caplog: pytest.LogCaptureFixture) -> None:
    """The second would share the first one's subnet: it stands aside, and both say why."""
    async with manager(ctl.server.url) as first, manager(ctl.server.url) as second:
        own = await first.own(offer(11))
        await first.announced(own)
        taken = await second.own(offer(11, mac=12))
        await first.until(lambda: first.subnets._view.entries[own.leases[Family.V4].node].lease != ctl_lease(first))
        await first.announced(await first.own(offer(11)))
        assert "another node that announces the same public IP" in caplog.text
        name = own.leases[Family.V4].node
        await second.until(lambda: second.subnets._view.entries[name].lease == ctl.lease_of(name))
        with pytest.raises(Retry, match="two nodes announce one public IP"):
            await second.subnets.announce(taken.leases)
        with pytest.raises(NotYet, match=r"public IP 192\.168\.0\.11.*--iface"):
            await second.subnets.own(offer(11, mac=12))
        assert (await first.announced(await first.own(offer(11)))).mended == ()


def ctl_lease(one: Manager) -> int:
    held = one.subnets._held
    assert held is not None
    return held.entry.lease


async def test_while_etcd_is_stopped_what_was_known_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent etcd is noticed by the pings over its connection, here by quicker ones."""
    requires("etcd", "etcdctl")
    quicker = {"grpc.keepalive_time_ms": 2000, "grpc.keepalive_timeout_ms": 1000, "grpc.http2.ping_timeout_ms": 1000}
    monkeypatch.setattr(client, "_OPTIONS", tuple((key, quicker.get(key, value)) for key, value in client._OPTIONS))
    caplog.set_level(logging.INFO)
    with running(tmp_path) as server:
        ctl = Etcdctl(server)
        ctl.config()
        async with manager(server.url) as one, manager(server.url) as two:
            own, other = await one.own(offer(11)), await two.own(offer(12))
            await one.until(lambda: len(one.peers()) == 1)
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            try:
                await one.until(lambda: one.subnets._view.trouble != "")
                assert await one.own(offer(11)) == own
                assert one.peers() == {str(subnet(other)): "192.168.0.12"}
            finally:
                server.process.send_signal(signal.SIGCONT)
            await one.until(lambda: one.subnets._view.trouble == "")
            assert "answers again" in caplog.text
            server.kill()
            server.start()
            ctl("del", f"{PREFIX}/subnets/{str(subnet(other)).replace('/', '-')}")
            await one.until(lambda: one.peers() == {})
            assert subnet(await one.own(offer(11))) == subnet(own)


async def test_a_start_without_etcd_goes_on_from_what_was_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requires("etcd", "etcdctl")
    caplog.set_level(logging.INFO)
    file = memory.leases(str(tmp_path / "run" / "subnet.env"))
    with running(tmp_path / "etcd") as server:
        ctl = Etcdctl(server)
        ctl.config()
        async with manager(server.url, remembered=file) as one, manager(server.url) as two:
            own, other = await one.own(offer(11)), await two.own(offer(12))
            await one.until(lambda: len(one.peers()) == 1)
            await one.until(lambda: file.exists() and str(subnet(other)).split("/")[0] in file.read_text())
            for number in (31, 32):  # the second within the pause after the first
                ctl.put(f"subnets/10.5.{number}.0-24", f'{{"PublicIP":"192.168.0.{number}","BackendType":"host-gw"}}')
                await one.until(lambda n=number: f"10.5.{n}.0/24" in one.peers())  # type: ignore[misc]
        assert "10.5.32.0-24" in file.read_text(), "what came just before the end is known, too"
        for number in (31, 32):
            ctl("del", f"{PREFIX}/subnets/10.5.{number}.0-24")
        async with manager(server.url, remembered=file) as one:
            await one.until(lambda: "10.5.32.0/24" not in one.peers())
        server.kill()
        kept = file.read_bytes()
        async with manager(server.url, remembered=file, read_only=True) as look:
            assert (await look.own(offer(11))).leases == own.leases
            assert file.read_bytes() == kept
        async with manager(server.url, remembered=file) as one:
            assert (await one.own(offer(11, mac=99))).leases == own.leases
            assert one.peers() == {str(subnet(other)): "192.168.0.12"}
            assert "going on from the 2 leases" in caplog.text
            with pytest.raises(Retry, match="no lease in etcd yet"):
                await one.subnets.announce(own.leases)
            server.start()
            await one.until(lambda: one.subnets._view.trouble == "")
            assert subnet(await one.own(offer(11))) == subnet(own)
            assert (await one.announced(await one.own(offer(11)))).until


async def test_an_etcd_made_anew_is_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its revisions begin again: what it says is no news of long ago. As after `etcdctl snapshot restore`."""
    requires("etcd", "etcdctl")
    with running(tmp_path) as server:
        ctl = Etcdctl(server)
        ctl.config()
        for number in range(20):
            ctl.put("noise", str(number))
        async with manager(server.url) as one:
            own = await one.own(offer(11))
            await one.announced(own)
            server.kill()
            shutil.rmtree(server.data)
            server.start()
            ctl.config()
            async with manager(server.url) as two:
                other = await two.own(offer(12))
                await one.until(lambda: list(one.peers()) == [str(subnet(other))])
                assert "it was restored or made anew" in caplog.text
                again = await one.own(offer(11))
                assert subnet(again) == subnet(own) or subnet(own) == subnet(other)
                assert (await one.announced(again)).until
                await two.until(lambda: list(two.peers()) == [str(subnet(again))])
            assert len(ctl.subnets()) == 2


async def test_who_only_looks_takes_nothing(ctl: Etcdctl) -> None:
    async with manager(ctl.server.url, read_only=True) as look, manager(ctl.server.url) as one:
        with pytest.raises(NotYet, match=r"192\.168\.0\.11.* has no lease"):
            await look.subnets.own(offer(11))
        own = await one.own(offer(11))
        lease = ctl.lease_of(own.leases[Family.V4].node)
        assert await look.own(offer(11, mac=99)) == own
        assert ctl.lease_of(own.leases[Family.V4].node) == lease


async def test_one_endpoint_of_several_may_be_dead(ctl: Etcdctl) -> None:
    async with manager("http://127.0.0.1:1", ctl.server.url) as one:
        assert (await one.announced(await one.own(offer(11)))).until
