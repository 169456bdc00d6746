"""The exec protocol, the cache of attachments, and what a crash in between leaves.

The plugins are shell scripts that note how they were called.
"""

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from kubelet.bandwidth import EGRESS, INGRESS, bandwidth
from kubelet.network import Network
from kubelet.runtime import NetworkUnavailable, PodIdentity

POD = PodIdentity("web", "default", "uid-1")
ID = "f" * 64

SCRIPT = """#!/bin/sh
cd {folder}
n=$(ls calls/*.env 2>/dev/null | wc -l)
cat > calls/$n.json
echo "{name} $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS $CNI_ARGS $CNI_PATH" > calls/$n.env
[ ! -e {name}.$CNI_COMMAND.fails ] || {{ cat {name}.$CNI_COMMAND.fails; exit 1; }}
[ ! -e {name}.hangs ] || exec sleep 600
[ $CNI_COMMAND != ADD ] || cat {name}.result
"""


@dataclass
class World:
    folder: Path
    network: Network

    def plugin(self, name: str, address: str = "10.1.2.3/24") -> None:
        path = self.folder / "bin" / name
        path.write_text(SCRIPT.format(folder=self.folder, name=name))
        path.chmod(0o755)
        host = {"name": "veth1"}
        own = {"name": "eth0", "sandbox": "/proc/7/ns/net"}
        ips = [{"address": "10.1.2.1/24", "interface": 0}, {"address": address, "interface": 1}]
        result = {"cniVersion": "1.0.0", "interfaces": [host, own], "ips": ips, "by": name}
        (self.folder / f"{name}.result").write_text(json.dumps(result))

    def configure(
        self,
        *plugins: str,
        version: str = "1.0.0",
        file: str = "10-net.conflist",
        whole: Mapping[str, object] | None = None,
        **more: object,
    ) -> None:
        """`whole` are keys of the list, `more` those of each plugin."""
        rows = [{"type": name, "own": f"of {name}", **more} for name in plugins]
        document = {"cniVersion": version, "name": "net", "plugins": rows, **(whole or {})}
        (self.folder / "net.d" / file).write_text(json.dumps(document))

    def refuse(self, name: str, command: str, answer: object) -> Path:
        path = self.folder / f"{name}.{command}.fails"
        path.write_text(answer if isinstance(answer, str) else json.dumps(answer))
        return path

    def calls(self) -> list[str]:
        """`plugin COMMAND` in order."""
        folder = self.folder / "calls"
        rows = [(folder / f"{n}.env").read_text() for n in range(len(list(folder.glob("*.env"))))]
        return [" ".join(row.split()[:2]) for row in rows]

    def request(self, number: int) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "calls" / f"{number}.json").read_text())
        return found

    def cached(self) -> list[Path]:
        folder = self.folder / "cache" / "results"
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def restarted(self) -> Network:
        return Network(self.network.conf_dir, self.network.bin_dirs, self.network.cache_dir)


@pytest.fixture
def world(tmp_path: Path) -> World:
    for name in ("bin", "net.d", "calls"):
        (tmp_path / name).mkdir()
    made = World(
        tmp_path, Network(str(tmp_path / "net.d"), [str(tmp_path / "bin")], str(tmp_path / "cache"), timeout=10)
    )
    made.plugin("first")
    made.plugin("second", "10.1.2.4/24")
    made.configure("first", "second")
    return made


async def test_add_goes_forward_and_del_backward(world: World) -> None:
    assert await world.network.add(ID, "/proc/7/ns/net", POD) == (IPv4Address("10.1.2.4"),)
    assert world.network.attachments()[ID].ips == (IPv4Address("10.1.2.4"),)
    await world.network.check(ID, "/proc/7/ns/net")
    await world.network.delete(ID, "/proc/7/ns/net")
    assert world.calls() == ["first ADD", "second ADD", "first CHECK", "second CHECK", "second DEL", "first DEL"]
    assert "prevResult" not in world.request(0)
    previous = [world.request(number)["prevResult"] for number in range(1, 6)]
    assert [each["by"] for each in previous if isinstance(each, dict)] == ["first"] + ["second"] * 4
    first = world.request(0)
    assert (first["name"], first["cniVersion"], first["own"]) == ("net", "1.0.0", "of first")
    assert (world.folder / "calls" / "0.env").read_text().split()[2:] == [
        ID, "eth0", "/proc/7/ns/net",
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={ID};K8S_POD_UID=uid-1",
        str(world.folder / "bin"),
    ]  # fmt: skip
    assert world.cached() == []
    await world.network.delete(ID)
    assert len(world.calls()) == 6


async def test_a_restart_knows_the_attachment(world: World) -> None:
    await world.network.add(ID, "/proc/7/ns/net", POD)
    document = json.loads(world.cached()[0].read_text())
    assert world.cached()[0].name == f"net-{ID}-eth0"  # libcni's name and format
    assert (document["kind"], document["containerId"], document["networkName"]) == ("cniCacheV1", ID, "net")
    assert json.loads(base64.b64decode(document["config"]))["name"] == "net"
    heir = world.restarted()
    assert heir.attachments()[ID].ips == (IPv4Address("10.1.2.4"),)
    world.configure("second")  # today's configuration is another; DEL uses that of the ADD
    await heir.delete(ID)
    assert world.calls()[2:] == ["second DEL", "first DEL"]


async def test_a_failed_add_is_undone(world: World) -> None:
    world.refuse(
        "second", "ADD", {"cniVersion": "1.0.0", "code": 11, "msg": "try again later", "details": "no subnet yet"}
    )
    with pytest.raises(
        NetworkUnavailable, match=r'plugin type="second" failed \(add\): try again later .*11.*no subnet yet'
    ):
        await world.network.add(ID, "/proc/7/ns/net", POD)
    assert world.calls() == ["first ADD", "second ADD", "second DEL", "first DEL"]
    assert world.cached() == []
    assert ID not in world.network.attachments()


async def test_a_del_that_fails_is_remembered_and_every_plugin_has_its_turn(world: World) -> None:
    await world.network.add(ID, "/proc/7/ns/net", POD)
    obstacle = world.refuse("second", "DEL", "segmentation fault")
    with pytest.raises(NetworkUnavailable, match=r'"second" failed \(del\): segmentation fault'):
        await world.network.delete(ID)
    assert world.calls()[2:] == ["second DEL", "first DEL"]
    assert len(world.cached()) == 1
    obstacle.unlink()
    await world.network.delete(ID)
    assert world.cached() == []


async def test_killed_between_add_and_its_answer(world: World) -> None:
    """The entry without a result says that DEL is due."""
    await world.network.add(ID, "/proc/7/ns/net", POD)
    path = world.cached()[0]
    path.write_text(json.dumps({**json.loads(path.read_text()), "result": None}))
    (path.parent / "net-x-eth0.tmp").touch()
    heir = world.restarted()
    assert heir.attachments()[ID].ips == ()
    assert len(world.cached()) == 1  # the torn write is swept away
    await heir.delete(ID)
    assert world.calls()[2:] == ["second DEL", "first DEL"]
    assert world.cached() == []


@pytest.mark.parametrize("damage", ["", "{", '{"config": "!"}', '{"config": "e30=", "result": 3}'])
async def test_a_damaged_entry_still_names_its_sandbox(world: World, damage: str) -> None:
    await world.network.add(ID, "/proc/7/ns/net", POD)
    world.cached()[0].write_text(damage)
    heir = world.restarted()
    assert heir.attachments()[ID].ips == ()
    await heir.delete(ID)
    assert world.calls()[2:] == ["second DEL", "first DEL"]
    assert world.cached() == []


async def test_a_plugin_that_hangs_is_killed(world: World) -> None:
    (world.folder / "first.hangs").touch()
    world.network.timeout = 0.3
    with pytest.raises(NetworkUnavailable, match=r"first.*killed after 0.3 s"):
        await world.network.add(ID, "/proc/7/ns/net", POD)


@pytest.mark.parametrize("answer", ["", "no json", "[]", '{"ips": [{"address": "x"}]}', '{"ips": []}'])
async def test_a_result_that_is_none(world: World, answer: str) -> None:
    (world.folder / "second.result").write_text(answer)
    with pytest.raises(NetworkUnavailable):
        await world.network.add(ID, "/proc/7/ns/net", POD)
    assert world.cached() == []


async def test_readiness_says_what_is_missing(world: World) -> None:
    assert await world.network.obstacle() == ""
    (world.folder / "bin" / "second").unlink()
    assert 'failed to find plugin "second" in path' in await world.network.obstacle()
    world.configure("first", file="05-first.conflist")
    assert await world.network.obstacle() == ""  # the first in lexical order counts
    (world.folder / "net.d" / "01-broken.conf").write_text("{")
    assert await world.network.obstacle() == ""
    for path in (world.folder / "net.d").glob("*.conflist"):
        path.unlink()
    assert "01-broken.conf" in await world.network.obstacle()
    (world.folder / "net.d" / "01-broken.conf").unlink()
    assert f"no networks found in {world.folder}/net.d" in await world.network.obstacle()
    with pytest.raises(NetworkUnavailable, match="cni config uninitialized"):
        await world.network.add(ID, "/proc/7/ns/net", POD)
    assert world.cached() == []


async def test_our_own_plugin_waits_for_the_overlay(world: World) -> None:
    world.plugin("wherry-cni")
    subnet = world.folder / "subnet.env"
    world.configure("wherry-cni", subnetFile=str(subnet))
    assert f"waits for {subnet}" in await world.network.obstacle()
    subnet.touch()
    assert await world.network.obstacle() == ""


async def test_a_network_at_1_1_is_asked_for_its_status(world: World) -> None:
    """Of the versions offered the newest is spoken; a good answer counts for a while, a bad one is asked again soon."""
    world.configure("first", "second", whole={"cniVersions": ["1.0.0", "1.1.0"]})
    refusal = world.refuse("second", "STATUS", {"cniVersion": "1.1.0", "code": 50, "msg": "no subnet yet"})
    assert "cni network 'net': plugin type=\"second\" failed (status): no subnet yet" in await world.network.obstacle()
    assert world.calls() == ["first STATUS", "second STATUS"]
    assert world.request(0)["cniVersion"] == "1.1.0"
    assert "no subnet yet" in await world.network.obstacle()
    assert len(world.calls()) == 2
    refusal.unlink()
    world.configure("first", "second", version="1.1.0")
    assert await world.network.obstacle() == ""  # another configuration is asked at once
    assert await world.network.obstacle() == ""
    assert len(world.calls()) == 4


async def test_a_plugin_that_does_not_answer_is_an_obstacle(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubelet.network._STATUS_SECONDS", 0.3)
    world.configure("first", version="1.1.0")
    (world.folder / "first.hangs").touch()
    assert "killed after 0.3 s" in await world.network.obstacle()


async def test_what_no_attachment_names_is_garbage(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.configure("first", "second", version="1.1.0")
    await world.network.add(ID, "/proc/7/ns/net", POD)
    obstacle = world.refuse("first", "GC", {"cniVersion": "1.1.0", "code": 5, "msg": "disk full"})
    with caplog.at_level(logging.WARNING):
        await world.network.collect()
    assert world.calls()[2:] == ["first GC", "second GC"]
    assert world.request(3)["cni.dev/valid-attachments"] == [{"containerID": ID, "ifname": "eth0"}]
    assert "disk full" in caplog.text
    await world.network.collect()
    assert len(world.calls()) == 4, "not every time"
    obstacle.unlink()
    heir = world.restarted()
    await heir.delete(ID)
    await heir.collect()
    assert world.calls()[4:] == ["second DEL", "first DEL", "first GC", "second GC"]
    assert world.request(6)["cni.dev/valid-attachments"] == []


@pytest.mark.parametrize("how", [{"version": "1.0.0"}, {"version": "1.1.0", "whole": {"disableGC": True}}])
async def test_who_does_not_want_gc_has_none(world: World, how: dict[str, object]) -> None:
    world.configure("first", **how)  # type: ignore[arg-type]
    await world.network.collect()
    assert world.calls() == []


async def test_an_add_waits_for_a_collection_that_does_not_know_it(world: World) -> None:
    """Its address would be given back while it is being made."""
    world.configure("first", "second", version="1.1.0")
    await asyncio.gather(world.network.collect(), world.network.add(ID, "/proc/7/ns/net", POD))
    assert world.calls() == ["first GC", "second GC", "first ADD", "second ADD"]


async def test_bandwidth_is_told_to_whom_asks(world: World, caplog: pytest.LogCaptureFixture) -> None:
    limits = bandwidth({INGRESS: "1M", EGRESS: "200M"})
    assert limits == {
        "ingressRate": 10**6,
        "ingressBurst": 1 << 20,
        "egressRate": 2 * 10**8,
        "egressBurst": 2 * 10**7,
    }
    await world.network.add(ID, "/proc/7/ns/net", POD, (), limits)
    assert "its bandwidth is not limited" in caplog.text
    await world.network.delete(ID)
    world.configure("first", "second", capabilities={"bandwidth": True})
    await world.network.add(ID, "/proc/7/ns/net", POD, (), limits)
    assert world.request(5)["runtimeConfig"] == {"bandwidth": limits}
    heir = world.restarted()
    await heir.delete(ID)
    assert world.request(7)["runtimeConfig"] == {"bandwidth": limits}, "DEL is told what the ADD was"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("999", "unreasonably small"),
        ("0", "unreasonably small"),
        ("2P", "unreasonably large"),
        ("fast", "quantities must"),
    ],
)
def test_a_limit_that_makes_no_sense(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"annotation {EGRESS}: '{text}': .*{words}"):
        bandwidth({EGRESS: text})


def test_a_pod_without_limits_has_none() -> None:
    assert bandwidth({"other": "1"}) == {}


async def test_plugins_in_files_beside_a_list(world: World) -> None:
    """They are its last ones, unless it says otherwise; and a DEL does not need the files any more."""
    world.configure("first")
    folder = world.folder / "net.d" / "net"
    folder.mkdir()
    (folder / "20.conf").write_text(json.dumps({"type": "second", "own": "beside"}))
    await world.network.add(ID, "/proc/7/ns/net", POD)
    assert world.request(1)["own"] == "beside"
    (folder / "20.conf").unlink()
    await world.restarted().delete(ID)
    assert world.calls() == ["first ADD", "second ADD", "second DEL", "first DEL"]
    (folder / "20.conf").write_text("{")
    assert await world.network.obstacle() != ""
    world.configure("first", whole={"loadOnlyInlinedPlugins": True})
    assert await world.network.obstacle() == ""
