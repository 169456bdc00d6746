"""The keys of bridge, and those of wherry-cni as what they become: each read, each bad one named with its remedy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cni import config
from cni.call import Call
from cni.model import Bridge
from cni.plugins import wherry
from cni.spec import CniError

LEAST: dict[str, Any] = {"cniVersion": "1.0.0", "name": "pods", "type": "bridge"}
SUBNET: dict[str, Any] = {"cniVersion": "1.0.0", "name": "pods", "type": "wherry-cni", "subnet": "10.1.2.0/24"}


def parsed(said: Mapping[str, str] | None = None, /, **keys: Any) -> Bridge:
    return config.parse_bridge(Call("ADD", "c0ffee", "eth0", "/x", args=said), {**LEAST, **keys})


def test_the_least_bridge() -> None:
    found = parsed()
    assert (found.network, found.name, found.gateway, found.default_route, found.ipam) == (
        "pods",
        "cni0",
        False,
        False,
        "",
    )
    assert (found.mtu, found.vlan, found.trunk, found.untagged, found.mac) == (0, 0, (), True, b"")


def test_every_key_is_read() -> None:
    found = parsed(
        bridge="br1",
        isDefaultGateway=True,
        forceAddress=True,
        ipMasq=True,
        ipMasqBackend="nftables",
        mtu=1450,
        hairpinMode=True,
        vlanTrunk=[{"id": 5}, {"minID": 10, "maxID": 12}, {"id": 11}],
        preserveDefaultVlan=False,
        portIsolation=True,
        enabledad=True,
        ipam={"type": "dhcp"},
        dns={"domain": "x"},
    )
    assert (found.name, found.gateway, found.default_route, found.force) == ("br1", True, True, True)
    assert (found.masquerade, found.backend, found.mtu, found.hairpin) == (True, "nftables", 1450, True)
    assert (found.trunk, found.untagged, found.isolated, found.dad) == ((5, 10, 11, 12), False, True, True)
    assert (found.ipam, found.dns) == ("dhcp", {"domain": "x"})
    assert parsed(vlan=7, promiscMode=True, disableContainerInterface=True).down


def test_the_runtimes_mac_counts_most() -> None:
    by_args = {"MAC": "02:00:00:00:00:01"}
    args, runtime = {"cni": {"mac": "02:00:00:00:00:02"}}, {"mac": "02-00-00-00-00-03"}
    assert parsed(by_args).mac[-1] == 1
    assert parsed(by_args, args=args).mac[-1] == 2
    assert parsed(by_args, args=args, runtimeConfig=runtime).mac[-1] == 3


def test_keys_that_nobody_knows_are_ignored_as_the_reference_does() -> None:
    parsed(mut=1450, agent=True)


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"macspoofchk": True}, 2, "macspoofchk true is not supported"),
        ({"bridge": "a" * 16}, 7, "must name an interface"),
        ({"isGateway": "yes"}, 7, 'isGateway "yes" must be true or false'),
        ({"hairpinMode": True, "promiscMode": True}, 7, "promiscMode true and hairpinMode are two ways"),
        ({"vlan": 4095}, 7, "vlan 4095 must be 0 to 4094"),
        ({"vlan": 5, "vlanTrunk": [{"id": 6}]}, 7, "vlan 5 and vlanTrunk are both given"),
        ({"vlanTrunk": [{"minID": 6}]}, 7, "must give minID and maxID together"),
        ({"vlanTrunk": [{"minID": 6, "maxID": 5}]}, 7, "must give an id, or minID up to maxID"),
        ({"vlanTrunk": [{}]}, 7, "must give an id"),
        ({"vlanTrunk": [5]}, 7, "vlanTrunk [5] must be a list such as"),
        ({"ipMasqBackend": "ipfw"}, 7, 'ipMasqBackend "ipfw" must be "iptables" or "nftables"'),
        ({"mtu": 40}, 7, "mtu 40 must be 68 to 65535"),
        ({"mtu": True}, 7, "mtu true must be 68"),
        ({"disableContainerInterface": True, "ipam": {"type": "static"}}, 7, "goes without addresses: remove ipam"),
        ({"ipam": "host-local"}, 7, 'ipam "host-local" must be an object'),
        ({"runtimeConfig": {"mac": "x"}}, 7, 'mac "x" must be six bytes'),
        ({"runtimeConfig": {"mac": "01:00:00:00:00:01"}}, 7, "and no group's"),
    ],
)
def test_a_bad_key_of_bridge_is_named(keys: Mapping[str, Any], code: int, says: str) -> None:
    with pytest.raises(CniError) as refused:
        parsed(**keys)
    assert says in refused.value.message
    assert refused.value.code == code


def test_wherry_cni_is_a_bridge_with_host_local() -> None:
    assert wherry.translated({**SUBNET, "agent": True, "cni.dev/x": 1}) == {
        "cniVersion": "1.0.0",
        "name": "pods",
        "cni.dev/x": 1,
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "isDefaultGateway": True,
        "forceAddress": True,
        "hairpinMode": False,
        "mtu": 0,
        "ipam": {
            "type": "host-local",
            "dataDir": "/var/lib/cni/networks",
            "ranges": [[{"subnet": "10.1.2.0/24"}]],
            "routes": [],
        },
    }


def test_every_key_of_wherry_cni_becomes_something() -> None:
    keys: dict[str, Any] = {
        "bridge": "br1",
        "mtu": 1450,
        "isDefaultGateway": False,
        "hairpinMode": True,
        "dataDir": "/data/",
        "subnet": "10.1.2.0/24,fd00:2::/64",
        "routes": [{"dst": "10.0.0.0/8", "gw": "10.1.2.9"}, {"dst": "172.16.0.0/12"}, {"dst": "fd00::/8"}],
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    found: Any = wherry.translated({**SUBNET, **keys})
    assert (found["bridge"], found["mtu"], found["isDefaultGateway"], found["hairpinMode"]) == (
        "br1",
        1450,
        False,
        True,
    )
    assert found["dns"] == {"nameservers": ["10.96.0.10"]}
    assert found["ipam"] == {
        "type": "host-local",
        "dataDir": "/data",
        "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:2::/64"}]],
        "routes": [
            {"dst": "10.0.0.0/8", "gw": "10.1.2.9"},
            {"dst": "172.16.0.0/12", "gw": "10.1.2.1"},
            {"dst": "fd00::/8", "gw": "fd00:2::1"},
        ],
    }


FLANNEL = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
BOTH = FLANNEL + "FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:3::1/64\n"


def from_file(tmp_path: Path, text: str, **keys: Any) -> Any:
    file = tmp_path / "subnet.env"
    file.write_text(text)
    rest = {key: value for key, value in SUBNET.items() if key != "subnet"}
    return wherry.translated({**rest, "subnetFile": str(file), **keys})


def test_the_overlays_file_is_read(tmp_path: Path) -> None:
    found = from_file(tmp_path, FLANNEL)
    assert found["mtu"] == 1450
    assert found["ipam"]["ranges"] == [[{"subnet": "10.244.3.0/24"}]]
    assert found["ipam"]["routes"] == [{"dst": "10.244.0.0/16", "gw": "10.244.3.1"}]
    assert from_file(tmp_path, FLANNEL, mtu=1400)["mtu"] == 1400, "the configured one wins"
    assert from_file(tmp_path, FLANNEL, isGateway=False)["ipam"]["routes"] == []


def test_both_families_of_the_overlay(tmp_path: Path) -> None:
    found = from_file(tmp_path, BOTH)
    assert found["ipam"]["ranges"] == [[{"subnet": "10.244.3.0/24"}], [{"subnet": "fd00:244:3::/64"}]]
    assert found["ipam"]["routes"][1] == {"dst": "fd00:244::/48", "gw": "fd00:244:3::1"}


def test_an_absent_file_means_later() -> None:
    rest = {key: value for key, value in SUBNET.items() if key != "subnet"}
    with pytest.raises(CniError, match=r"nowhere\.env is not there yet") as refused:
        wherry.translated({**rest, "subnetFile": "/nowhere.env"})
    assert refused.value.code == 11
    with pytest.raises(CniError) as refused:
        wherry.status(Call("STATUS"), {**rest, "subnetFile": "/nowhere.env"})
    assert refused.value.code == 50


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FLANNEL_SUBNET=\n",
        "FLANNEL_SUBNET=10.244.3.1\n",
        "FLANNEL_SUBNET=10.244.3.1/31\n",
        FLANNEL + "FLANNEL_MTU=x\n",
        FLANNEL + "FLANNEL_MTU=9\n",
        FLANNEL + "FLANNEL_NETWORK=ten\n",
    ],
)
def test_a_file_that_says_no_subnet_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(CniError, match=r"subnet\.env") as refused:
        from_file(tmp_path, text)
    assert refused.value.code == 7


@pytest.mark.parametrize("key", ["capabilities", "runtimeConfig", "prevResult", "args", "cni.dev/attachments"])
def test_the_specifications_own_keys_pass(key: str) -> None:
    wherry.translated({**SUBNET, key: {"anything": [1]}})


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"mut": 1450}, 2, "does not know the key 'mut' (value 1450)"),
        ({"ipam": {"type": "host-local"}}, 2, "does not know the key 'ipam'"),
        ({"ipMasq": True}, 2, "ipMasq true is not supported: the overlay masquerades"),
        ({"agent": "true"}, 7, 'agent "true" must be true or false'),
        ({"ipMasq": "yes"}, 7, 'ipMasq "yes" must be true or false'),
        ({"bridge": "a:b"}, 7, 'bridge "a:b" must name an interface'),
        ({"bridge": 1}, 7, "bridge 1 must be a string"),
        ({"mtu": 100}, 7, "mtu 100 must be 576 to 65535"),
        ({"isGateway": False, "isDefaultGateway": True}, 7, "isDefaultGateway true contradicts isGateway false"),
        ({"dataDir": "here"}, 7, 'dataDir "here" must be an absolute path'),
        ({"subnetFile": "/x"}, 7, 'subnetFile "/x" and subnet are both given'),
        ({"subnet": "10.1.2.3/24"}, 7, "host bits set: the range is 10.1.2.0/24"),
        ({"subnet": "10.1.2.0/31"}, 7, "must be a /8 to a /30"),
        ({"subnet": "fd00::/127"}, 7, "must be a /8 to a /126"),
        ({"subnet": "10.1.2.0/24,10.1.3.0/24"}, 7, "must have at most one range of each family"),
        ({"subnet": "10.1.2.0"}, 7, "with a prefix length"),
        ({"routes": {}}, 7, "routes {} must be a list"),
        ({"routes": [{"dst": "10.0.0.0/8", "metric": 1}]}, 7, "routes[0] "),
        ({"routes": [{"dst": "ten"}]}, 7, "routes[0]: 'ten' is not an IP address"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]}, 7, "routes[0]: 'fd00::1' is not an IPv4 address"),
    ],
)
def test_a_bad_key_of_wherry_cni_is_named(keys: Mapping[str, Any], code: int, says: str) -> None:
    with pytest.raises(CniError) as refused:
        wherry.translated({**SUBNET, **keys})
    assert says in refused.value.message
    assert refused.value.code == code
