"""The door: what is accepted, what is refused and in which words, and that nothing is read in vain."""

import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

import kubelet
from kube.errors import UsageError
from kubelet import config, node

ROOM = Path(kubelet.__file__).parent


def load(*flags: str) -> config.Config:
    return config.load(["--kubeconfig", "/k", *flags])


def from_file(folder: Path, text: str) -> config.Config:
    path = folder / "kubelet.yaml"
    path.write_text(f"apiVersion: {config.API_VERSION}\nkind: {config.KIND}\n{text}")
    return load("--config", str(path))


def test_defaults_are_upstreams() -> None:
    found = load()
    assert (found.port, found.healthz_port, found.max_pods, found.node_lease_duration_seconds) == (
        10250,
        10248,
        110,
        40,
    )
    assert (found.sync_frequency, found.node_status_update_frequency) == (60, 10)
    assert found.root_dir == "/var/lib/kubelet"


def test_a_kubelet_configuration_is_read(tmp_path: Path) -> None:
    found = from_file(
        tmp_path,
        "clusterDNS: [10.96.0.10]\nsyncFrequency: 1m30s\nauthentication: {x509: {clientCAFile: /ca}}\n"
        "crashLoopBackOff: {maxContainerRestartPeriod: 30s}\n"
        "registerWithTaints: [{key: a, value: b, effect: NoSchedule}]\nkubeReserved: {cpu: 100m}\n",
    )
    assert found.cluster_dns == ("10.96.0.10",)
    assert found.sync_frequency == 90
    assert found.authentication.x509.client_ca_file == "/ca"
    assert found.crash_loop_back_off.max_container_restart_period == 30
    assert node.taint_of(found.register_with_taints[0]) == {"key": "a", "value": "b", "effect": "NoSchedule"}


def test_taints_by_flag() -> None:
    found = load("--register-with-taints", "a=b:NoSchedule,c:NoExecute")
    assert [node.taint_of(t) for t in found.register_with_taints] == [
        {"key": "a", "value": "b", "effect": "NoSchedule"},
        {"key": "c", "effect": "NoExecute"},
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--node-ip", "nope"], "--node-ip: 'nope' is not an IP address"),
        (["--register-with-taints", "a=b:Never"], "--register-with-taints: 'a=b:Never'"),
        (["--max-pods", "-1"], "--max-pods: -1"),
        (["--cgroup-root", "here"], "--cgroup-root: 'here'"),
        (["--root-dir", "here"], "--root-dir: 'here'"),
        (["--max-podz", "1"], "did you mean --max-pods?"),
    ],
)
def test_refusals_name_the_flag(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        load(*flags)


def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean clusterDNS"):
        from_file(tmp_path, "clusterDns: [10.96.0.10]\n")


def _fields(kind: type[msgspec.Struct]) -> list[str]:
    names = []
    for field in msgspec.structs.fields(kind):
        names.append(field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            names += _fields(field.type)
    return names


AWAITED = {
    "bootstrap_kubeconfig", "cert_dir", "rotate_certificates", "server_tls_bootstrap", "seccomp_default",
    "image_credential_provider_config", "image_credential_provider_bin_dir", "serialize_image_pulls",
    "max_parallel_image_pulls", "registry_pull_qps", "registry_burst", "image_minimum_gc_age", "image_maximum_gc_age",
    "image_gc_high_threshold_percent", "image_gc_low_threshold_percent", "read_only_port", "tls_cipher_suites",
    "tls_min_version", "streaming_connection_idle_timeout", "enable_debugging_handlers", "enable_system_log_handler",
    "enable_system_log_query", "volume_stats_agg_period",
    "container_log_max_workers", "container_log_monitor_interval",
}  # fmt: skip
"""Keys whose readers are on their way."""


def test_every_key_is_read_somewhere() -> None:
    sources = "".join(path.read_text() for path in ROOM.rglob("*.py") if path.name != "config.py")
    own = (ROOM / "config.py").read_text()  # whose properties read for others
    unread = [
        name
        for name in _fields(config.Config)
        if not re.search(rf"config[\w.]*\.{name}\b", sources) and not re.search(rf"self\.{name}\b", own)
    ]
    assert set(unread) <= AWAITED


def test_help_is_quick() -> None:
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kubelet", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert time.monotonic() - begun < 5  # on a busy machine; what it imports is what counts
    assert not re.search(r"\| +(aiohttp|docker|cryptography|prometheus_client|yaml)\b", done.stderr)


def test_nobody_to_talk_to_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kubelet", "--kubeconfig", "/does/not/exist"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "/does/not/exist" in done.stderr
