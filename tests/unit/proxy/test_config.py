"""The proxy at its door: upstream's file and flags, and clear refusals."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml

from kube.errors import UsageError
from proxy import config_file
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

KUBEADM = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection:
  acceptContentTypes: ""
  burst: 0
  contentType: ""
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack:
  maxPerCore: null
  min: null
  tcpBeLiberal: false
  tcpCloseWaitTimeout: null
  tcpEstablishedTimeout: null
  udpStreamTimeout: 0s
  udpTimeout: 0s
detectLocal:
  bridgeInterface: ""
  interfaceNamePrefix: ""
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
ipvs:
  excludeCIDRs: null
  minSyncPeriod: 0s
  scheduler: ""
  strictARP: false
  syncPeriod: 0s
  tcpFinTimeout: 0s
  tcpTimeout: 0s
  udpTimeout: 0s
kind: KubeProxyConfiguration
logging:
  flushFrequency: 0
  options:
    json:
      infoBufferSize: "0"
    text:
      infoBufferSize: "0"
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables:
  masqueradeAll: false
  masqueradeBit: null
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel:
  enableDSR: false
  forwardHealthCheckVip: false
  networkName: ""
  rootHnsEndpointName: ""
  sourceVip: ""
"""
"""As kubeadm writes it into the ConfigMap kube-proxy."""


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


def test_what_kubeadm_writes_means_the_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, KUBEADM)
    assert (config.mode, config.bind_address_hard_fail, config.oom_score_adj) == ("iptables", False, -999)
    assert (config.healthz_bind_address, config.metrics_bind_address) == ("0.0.0.0:10256", "127.0.0.1:10249")
    assert (config.client_connection.qps, config.client_connection.burst) == (5.0, 10)
    assert (config.conntrack.max_per_core, config.conntrack.min) == (32768, 131072)
    assert (config.conntrack.tcp_established_timeout, config.conntrack.tcp_close_wait_timeout) == (86400.0, 3600.0)
    assert (config.rules.masquerade_bit, config.rules.sync_period, config.rules.min_sync_period) == (14, 30.0, 1.0)


def test_zeros_that_mean_something_stay_zeros(tmp_path: Path) -> None:
    """kind and others write maxPerCore: 0, to leave the host's limits alone."""
    zeros = (
        FILE
        + "conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}\noomScoreAdj: 0\n"
    )
    config = loaded(tmp_path, zeros.replace("masqueradeBit: 20", "masqueradeBit: 0"))
    assert (config.conntrack.max_per_core, config.conntrack.min, config.oom_score_adj) == (0, 0, 0)
    assert (config.conntrack.tcp_established_timeout, config.conntrack.tcp_close_wait_timeout) == (0.0, 0.0)
    assert config.iptables.masquerade_bit == 0


def test_nftables_mode(tmp_path: Path) -> None:
    text = FILE.replace('mode: ""', "mode: nftables\nnftables: {masqueradeBit: 3, syncPeriod: 10s}")
    config = loaded(tmp_path, text)
    assert (config.mode, config.rules.masquerade_bit, config.rules.sync_period) == ("nftables", 3, 10.0)
    assert config.rules.masquerade_all is False  # that of iptables is not its
    assert config.node_port_addresses == ("primary",)
    assert loaded(tmp_path, text, "--nodeport-addresses=0.0.0.0/0,::/0").node_port_addresses == ("0.0.0.0/0", "::/0")


def test_upstreams_flags_mean_the_mode_that_runs(tmp_path: Path) -> None:
    flags = ["--proxy-mode=nftables", "--masquerade-all", "--iptables-masquerade-bit", "5", "--iptables-sync-period=9s"]
    rules = loaded(tmp_path, FILE, *flags).rules
    assert (rules.masquerade_all, rules.masquerade_bit, rules.sync_period, rules.min_sync_period) == (True, 5, 9.0, 1.0)


def test_flags_win(tmp_path: Path) -> None:
    flags = [
        "--cluster-cidr",
        "10.1.0.0/16",
        "--iptables-sync-period=5s",
        "--masquerade-all=false",
        "--kubeconfig",
        "/k",
        "--healthz-bind-address=",
        "-v=4",
    ]
    config = loaded(tmp_path, FILE, *flags)
    assert config.cluster_networks == (IPv4Network("10.1.0.0/16"),)
    assert (config.iptables.sync_period, config.iptables.masquerade_all) == (5.0, False)
    assert config.client_connection.kubeconfig == "/k"
    assert (config.healthz_bind_address, config.metrics_bind_address) == ("", "127.0.0.1:10249")
    assert config.logging.verbosity == 4
    assert loaded(tmp_path, FILE, "-v", "2").logging.verbosity == 2


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_the_configuration_written_out_is_read_the_same(tmp_path: Path, mode: str) -> None:
    config = loaded(tmp_path, FILE.replace('mode: ""', f"mode: {mode}"), "--conntrack-max-per-core=0")
    config_file.write(config, str(tmp_path / "written.yaml"))
    again = load(["--config", str(tmp_path / "written.yaml")])
    written = yaml.safe_load((tmp_path / "written.yaml").read_text())
    config_file.write(again, str(tmp_path / "again.yaml"))
    assert yaml.safe_load((tmp_path / "again.yaml").read_text()) == written
    assert (again.rules, again.conntrack) == (config.rules, config.conntrack)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--kubeconfig"),
        (["--proxy-mode", "ipvs"], "--proxy-mode.*ipvs"),
        (["--detect-local-mode", "Magic"], "--detect-local-mode.*Magic"),
        (["--detect-local-mode", "BridgeInterface"], "detectLocal.bridgeInterface is empty.*name it"),
        (["--detect-local-mode", "InterfaceNamePrefix"], "detectLocal.interfaceNamePrefix is empty"),
        (["--pod-bridge-interface", "a-bridge-of-a-name"], "at most 15 characters"),
        (["--iptables-masquerade-bit", "32"], "masqueradeBit"),
        (["--iptables-min-sync-period", "60s"], "minSyncPeriod: 1m0s is longer than syncPeriod, 30s"),
        (["--cluster-cidr", "ten"], "clusterCIDR"),
        (["--cluster-cidr", "10.1.0.0/16,10.2.0.0/16"], "a family twice"),
        (["--bind-address", "node1"], "bindAddress"),
        (["--nodeport-addresses", "primary,10.0.0.0/8"], "primary"),
        (["--nodeport-addresses", "eth0"], "nodePortAddresses"),
        (["--oom-score-adj", "2000"], "oomScoreAdj"),
        (["--conntrack-min", "-1"], "conntrack.min"),
        (["--master", "node1:6443"], "--master.*https://host:port"),
        (["--profiling"], "--profiling: Go's profiler"),
        (["--ipvs-scheduler=sh"], "there is no ipvs mode"),
        (["--feature-gates=TopologyAwareHints=true"], "gates"),
        (["--iptables-masquarade-bit=3"], "did you mean --iptables-masquerade-bit"),
    ],
)
def test_refusals_name_the_field_and_the_remedy(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(flags)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("masqueradeBit: 20", "masqueradeBits: 20", "did you mean iptables.masqueradeBit"),
        ("kind:", "ipvs: {scheduler: sh}\nkind:", "ipvs.scheduler: sh: there is no ipvs mode"),
        ("kind:", "ipvs: {schedular: sh}\nkind:", "ipvs.schedular: unknown key"),
        ("kind:", "configSyncPeriod: 1m\nkind:", "configSyncPeriod: 1m: every change comes by a watch"),
        ("kind:", "enableProfiling: true\nkind:", "enableProfiling"),
        ("kind:", "winkernel: {enableDSR: true}\nkind:", "not Windows"),
        ("kind:", "logging: {format: json}\nkind:", "logging.format: json: the log is text"),
    ],
)
def test_keys_that_nobody_reads_are_refused(tmp_path: Path, key: str, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        loaded(tmp_path, FILE.replace(key, text, 1))


def test_only_running_needs_a_kubeconfig() -> None:
    assert load(["--cleanup"]).cleanup
    assert load(["--init-only"]).init_only
    assert load(["--master", "http://127.0.0.1:8080"]).master == "http://127.0.0.1:8080"
