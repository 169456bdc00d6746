"""The door: flags, net-conf.json, MTU arithmetic; bad input gets one line that names the key and the remedy."""

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from kube.errors import UsageError
from overlay import config
from overlay.config import Network


def written(path: Path, document: object) -> str:
    file = path / "net-conf.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(file)


@pytest.mark.parametrize(
    ("document", "network"),
    [
        ({"Network": "10.244.0.0/16"}, Network(pods=IPv4Network("10.244.0.0/16"))),
        (
            {"Network": "10.244.0.0/16", "EnableIPv4": True, "EnableIPv6": False, "Backend": {"Type": "vxlan"}},
            Network(pods=IPv4Network("10.244.0.0/16")),
        ),
        (
            {"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789, "MTU": 9000}},
            Network(pods=IPv4Network("10.0.0.0/8"), vni=7, port=4789, underlay_mtu=9000),
        ),
        ({"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan", "Port": 0}}, Network(pods=IPv4Network("10.0.0.0/8"))),
    ],
)
def test_net_conf(document: object, network: Network, tmp_path: Path) -> None:
    assert config.network(written(tmp_path, document)) == network


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "it must be JSON such as"),
        ([], "expected an object"),
        ({}, "Network: .*give the range of all pods"),
        ({"Network": "10.244.0.1/16"}, "Network: 10.244.0.1/16 has host bits set"),
        (
            {"Network": "10.244.0.0/16", "Netwrk": 1},
            "Netwrk: unknown key; the keys here are Network, EnableIPv4, Backend",
        ),
        ({"Network": "10.244.0.0/16", "EnableIPv6": True}, "EnableIPv6: the overlay carries IPv4 only"),
        ({"Network": "10.244.0.0/16", "EnableIPv4": False}, "EnableIPv4: the overlay carries IPv4 only"),
        ({"Network": "10.244.0.0/16", "SubnetLen": 25}, "SubnetLen: a node's subnet is its podCIDR"),
        ({"Network": "10.244.0.0/16", "Backend": "vxlan"}, "Backend: expected an object"),
        ({"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}, "Backend.Type: 'host-gw' is not built in"),
        (
            {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": True}},
            "DirectRouting: every peer",
        ),
        (
            {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 0}},
            "Backend.VNI: 0 is not a number from 1 to",
        ),
        (
            {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "Port": "8472"}},
            "Backend.Port: '8472' is not a number",
        ),
        (
            {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "MTU": 600}},
            "Backend.MTU: 600 leaves pods less than",
        ),
    ],
)
def test_net_conf_is_refused_in_words(document: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        config.network(written(tmp_path, document))
    assert "net-conf.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_net_conf_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"--net-config-path /nowhere/net-conf.json: No such file"):
        config.network("/nowhere/net-conf.json")


@pytest.mark.parametrize(
    ("underlay_mtu", "interface", "inside"),
    [(None, 1500, 1450), (None, 9000, 8950), (1400, 1500, 1350), (None, 1450, 1400)],
)
def test_the_mtu_inside_is_fifty_less(underlay_mtu: int | None, interface: int, inside: int) -> None:
    assert Network(pods=IPv4Network("10.244.0.0/16"), underlay_mtu=underlay_mtu).mtu(interface) == inside


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "--kubeconfig is required"),
        (["--kubeconfig=k", "--iface=eth1", "--iface-can-reach=10.0.0.1"], "--iface and --iface-can-reach"),
        (["--kubeconfig=k", "--public-ip=here"], "--public-ip: .*give an IPv4 address"),
        (["--kubeconfig=k", "--resync=0"], "--resync: 0s is too often"),
        (["--kubeconfig=k", "--kube-annotation-prefix=a/b/c"], "--kube-annotation-prefix: 'a/b/c'"),
    ],
)
def test_flags_are_refused_in_words(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config.load(argv)


def test_the_nodes_name_is_the_flag_else_node_name_else_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "from-env")
    assert config.load(["--kubeconfig=k", "--hostname-override=n"]).hostname_override == "n"
    assert config.load(["--kubeconfig=k"]).hostname_override == "from-env"
    monkeypatch.delenv("NODE_NAME")
    assert config.load(["--kubeconfig=k"]).hostname_override


def test_a_file_says_what_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text(
        "apiVersion: wherry.io/v1alpha1\nkind: OverlayConfiguration\nkubeconfig: /k\nipMasq: true\niptablesResync: 10s\n"
    )
    loaded = config.load(["--config", str(file), "--iface", "eth1"])
    assert (loaded.kubeconfig, loaded.ip_masq, loaded.iptables_resync, loaded.iface) == ("/k", True, 10.0, "eth1")


@pytest.mark.parametrize(
    ("prefix", "keys"), [("a.b", "a.b/"), ("a.b/c", "a.b/c-"), ("a.b/", "a.b/"), ("a.b/c-", "a.b/c-")]
)
def test_the_annotation_prefix_gets_flannels_separator(prefix: str, keys: str) -> None:
    assert config.annotation_prefix(prefix) == keys
