"""The proxy at its door: upstream's file and flags, and clear refusals."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from kube.errors import UsageError
from proxy.config import Config, load

FILE = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /etc/proxy.kubeconfig}
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
mode: ""
detectLocalMode: ""
bindAddress: 192.168.0.1
nodePortAddresses: null
hostnameOverride: node7
iptables: {masqueradeBit: 20, masqueradeAll: true, syncPeriod: 0s, minSyncPeriod: 250ms}
"""


def loaded(tmp_path: Path, text: str = FILE, *flags: str) -> Config:
    path = tmp_path / "proxy.yaml"
    path.write_text(text)
    return load(["--config", str(path), *flags])


def test_upstreams_file(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    assert config.client_connection.kubeconfig == "/etc/proxy.kubeconfig"
    assert config.cluster_networks[0] == IPv4Network("10.244.0.0/16")
    assert (config.mode, config.detect_local_mode, config.hostname_override) == ("iptables", "ClusterCIDR", "node7")
    assert config.node_ip == IPv4Address("192.168.0.1")
    assert (config.iptables.masquerade_bit, config.iptables.masquerade_all) == (20, True)
    assert (config.iptables.sync_period, config.iptables.min_sync_period) == (30.0, 0.25)


def test_flags_win(tmp_path: Path) -> None:
    flags = [
        "--cluster-cidr",
        "10.1.0.0/16",
        "--iptables-sync-period=5s",
        "--masquerade-all=false",
        "--kubeconfig",
        "/k",
    ]
    config = loaded(tmp_path, FILE, *flags)
    assert config.cluster_networks == (IPv4Network("10.1.0.0/16"),)
    assert (config.iptables.sync_period, config.iptables.masquerade_all) == (5.0, False)
    assert config.client_connection.kubeconfig == "/k"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--kubeconfig"),
        (["--proxy-mode", "ipvs"], "set iptables"),
        (["--detect-local-mode", "NodeCIDR"], "set ClusterCIDR"),
        (["--iptables-localhost-nodeports"], "localhostNodePorts"),
        (["--iptables-masquerade-bit", "32"], "masqueradeBit"),
        (["--cluster-cidr", "ten"], "clusterCIDR"),
        (["--cluster-cidr", "10.1.0.0/16,10.2.0.0/16"], "a family twice"),
        (["--bind-address", "node1"], "bindAddress"),
        (["--nodeport-addresses", "primary,10.0.0.0/8"], "primary"),
        (["--nodeport-addresses", "eth0"], "nodePortAddresses"),
    ],
)
def test_refusals_name_the_field_and_the_remedy(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(flags)


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="masqueradeBit"):
        loaded(tmp_path, FILE.replace("masqueradeBit", "masqueradeBits"))


def test_cleanup_needs_no_kubeconfig() -> None:
    assert load(["--cleanup"]).cleanup
