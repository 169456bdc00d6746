"""The door: what a runtime may hand over, and one sentence with a code for everything else."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from cni import config
from cni.model import Config, Lease
from cni.spec import CniError

LEAST = {"cniVersion": "1.0.0", "name": "pods", "type": "wherry-cni"}


def parsed(**keys: object) -> Config:
    return config.parse_config({**LEAST, **keys})


def refusal(keys: Mapping[str, object]) -> CniError:
    with pytest.raises(CniError) as refused:
        config.parse_config(keys)
    return refused.value


def test_the_least_configuration_takes_the_overlays_word() -> None:
    found = parsed()
    assert (found.bridge, found.mtu, found.gateway, found.default_route, found.hairpin) == (
        "cni0",
        0,
        True,
        True,
        False,
    )
    assert (found.subnet, found.subnet_file) == (None, "/run/flannel/subnet.env")
    assert found.ledger == "/var/lib/cni/networks/pods"


def test_every_key_is_read() -> None:
    found = parsed(
        bridge="br1",
        mtu=1450,
        isGateway=True,
        isDefaultGateway=False,
        hairpinMode=True,
        ipMasq=False,
        dataDir="/data/",
        subnet="10.1.2.0/24",
        routes=[{"dst": "10.0.0.0/8", "gw": "10.1.2.1"}, {"dst": "172.16.0.0/12"}],
        dns={"nameservers": ["10.96.0.10"]},
    )
    assert (found.bridge, found.mtu, found.default_route, found.hairpin) == ("br1", 1450, False, True)
    assert str(found.subnet) == "10.1.2.0/24"
    assert found.ledger == "/data/pods"
    assert [(each.destination, each.gateway) for each in found.routes] == [
        ("10.0.0.0/8", "10.1.2.1"),
        ("172.16.0.0/12", ""),
    ]
    assert found.dns == {"nameservers": ["10.96.0.10"]}


def test_a_bridge_without_an_address_is_no_default_gateway() -> None:
    assert not parsed(isGateway=False).default_route


@pytest.mark.parametrize("key", ["capabilities", "runtimeConfig", "prevResult", "args", "cni.dev/attachments"])
def test_the_specifications_own_keys_pass(key: str) -> None:
    parsed(**{key: {"anything": [1]}})


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"mut": 1450}, 2, "does not know the key 'mut' (value 1450)"),
        ({"ipam": {"type": "host-local"}}, 2, "does not know the key 'ipam'"),
        ({"ipMasq": True}, 2, "ipMasq true is not supported: the overlay masquerades"),
        ({"ipMasq": "yes"}, 7, 'ipMasq "yes" must be true or false'),
        ({"bridge": "a" * 16}, 7, "bridge "),
        ({"bridge": "a:b"}, 7, 'bridge "a:b" must name an interface'),
        ({"bridge": 1}, 7, "bridge 1 must be a string"),
        ({"mtu": 40}, 7, "mtu 40 must be 576 to 65535"),
        ({"mtu": True}, 7, "mtu true must be 576"),
        ({"mtu": "1450"}, 7, 'mtu "1450" must be 576'),
        ({"isGateway": False, "isDefaultGateway": True}, 7, "isDefaultGateway true contradicts isGateway false"),
        ({"dataDir": "here"}, 7, 'dataDir "here" must be an absolute path'),
        ({"subnet": "10.1.2.0/24", "subnetFile": "/x"}, 7, 'subnetFile "/x" and subnet are both given'),
        ({"subnet": "10.1.2.3/24"}, 7, "host bits set: the range is 10.1.2.0/24"),
        ({"subnet": "10.1.2.0/31"}, 7, "must be a /8 to a /30"),
        ({"subnet": "fd00::/64"}, 7, "is not an IPv4 address"),
        ({"subnet": "10.1.2.0"}, 7, "with a prefix length"),
        ({"routes": {}}, 7, "routes {} must be a list"),
        ({"routes": [{"dst": "10.0.0.0/8", "metric": 1}]}, 7, "routes[0] "),
        ({"routes": [{"dst": "ten"}]}, 7, "routes[0]: 'ten' is not an IPv4 address"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "fd00::1"}]}, 7, "routes[0]: 'fd00::1' is not an IPv4 address"),
    ],
)
def test_a_bad_key_is_named_with_its_remedy(keys: Mapping[str, object], code: int, says: str) -> None:
    refused = refusal({**LEAST, **keys})
    assert says in refused.message
    assert refused.code == code


def lease(tmp_path: Path, text: str, **keys: object) -> Lease:
    file = tmp_path / "subnet.env"
    file.write_text(text)
    return config.read_lease(parsed(subnetFile=str(file), **keys))


FLANNEL = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


def test_the_overlays_file_is_read(tmp_path: Path) -> None:
    found = lease(tmp_path, FLANNEL)
    assert (str(found.subnet), found.mtu, str(found.network)) == ("10.244.3.0/24", 1450, "10.244.0.0/16")


def test_the_configured_mtu_wins(tmp_path: Path) -> None:
    assert lease(tmp_path, FLANNEL, mtu=1400).mtu == 1400


def test_an_absent_file_means_later(tmp_path: Path) -> None:
    with pytest.raises(CniError, match=r"nowhere\.env is not there yet") as refused:
        config.read_lease(parsed(subnetFile=str(tmp_path / "nowhere.env")))
    assert refused.value.code == 11


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FLANNEL_SUBNET=\n",
        "FLANNEL_SUBNET=10.244.3.1\n",
        "FLANNEL_SUBNET=10.244.3.1/31\n",
        FLANNEL + "FLANNEL_MTU=x\n",
        FLANNEL + "FLANNEL_MTU=-1\n",
    ],
)
def test_a_file_without_a_subnet_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CniError) as refused:
        lease(tmp_path, text)
    assert refused.value.code == 7


def test_a_del_forgives_what_an_add_refuses() -> None:
    broken = {**LEAST, "mut": 1, "subnet": "nonsense", "dataDir": "/data"}
    assert config.ledger_of(broken) == "/data/pods"
