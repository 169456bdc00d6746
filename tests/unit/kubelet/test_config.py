"""The door: what is accepted, what is refused and in which words, and that nothing is read in vain."""

import re
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

import kubelet
from kube import settings
from kube.errors import UsageError
from kubelet import config
from kubelet.foreign import FOREIGN
from kubelet.nodestatus import node

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
        (["--cgroup-driver", "systemd"], "--cgroup-driver: cgroups are made by the kubelet itself; write cgroupDriver"),
        (["--kube-api-qps=5"], "--kube-api-qps: requests to the API server are few"),
        (["--hostname-override", "a_b"], "--hostname-override: 'a_b'"),
    ],
)
def test_refusals_name_the_flag(flags: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        load(*flags)


def test_stock_flags_that_ask_for_what_is_so_anyway_are_taken() -> None:
    plain = load()
    assert (
        load(
            "--cgroup-driver=cgroupfs", "--cgroups-per-qos=true", "--kube-api-qps", "50", "--make-iptables-util-chains"
        )
        == plain
    )
    with pytest.raises(UsageError, match="--cgroups-per-qos: there are always groups"):
        load("--cgroup-driver", "cgroupfs", "--cgroups-per-qos=false")
    with pytest.raises(UsageError, match="unrecognized arguments: here"):
        load("here")


def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean clusterDNS"):
        from_file(tmp_path, "clusterDns: [10.96.0.10]\n")


def _fields(kind: type[msgspec.Struct]) -> list[str]:
    """By dotted path: several structs have a field `enabled`."""
    names = []
    for field in msgspec.structs.fields(kind):
        names.append(field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            names += [f"{field.name}.{inner}" for inner in _fields(field.type)]
    return names


KUBEADM = """\
authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: CGROUPS
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ""
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging:
  flushFrequency: 0
  options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
resolvConf: /run/systemd/resolve/resolv.conf
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
"""
"""As `kubeadm init` writes /var/lib/kubelet/config.yaml."""


def test_kubeadms_own_file_loads(tmp_path: Path) -> None:
    found = from_file(tmp_path, KUBEADM.replace("CGROUPS", "cgroupfs"))
    defaults = load()
    assert found.static_pod_path == "/etc/kubernetes/manifests"
    assert found.rotate_certificates
    assert (found.authorization.mode, found.authentication.webhook.enabled) == ("Webhook", True)
    for name in ("sync_frequency", "node_status_update_frequency", "runtime_request_timeout", "file_check_frequency",
                 "container_runtime_endpoint", "eviction_pressure_transition_period", "image_minimum_gc_age"):  # fmt: skip
        assert getattr(found, name) == getattr(defaults, name), name
    assert found.authentication.webhook.cache_ttl == 120
    assert found.crash_loop_back_off.max_container_restart_period == 300


def test_the_systemd_driver_is_refused_with_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cgroupDriver: systemd: .*cgroupDriver: cgroupfs.*SystemdCgroup = false"):
        from_file(tmp_path, KUBEADM.replace("CGROUPS", "systemd"))


UPSTREAM = """
enableServer staticPodPath podLogsDir syncFrequency fileCheckFrequency httpCheckFrequency staticPodURL staticPodURLHeader
address port readOnlyPort tlsCertFile tlsPrivateKeyFile tlsCipherSuites tlsMinVersion tlsCurvePreferences rotateCertificates
serverTLSBootstrap authentication authorization registryPullQPS registryBurst imagePullCredentialsVerificationPolicy
preloadedImagesVerificationAllowlist eventRecordQPS eventBurst enableDebuggingHandlers enableContentionProfiling healthzPort
healthzBindAddress oomScoreAdj clusterDomain clusterDNS streamingConnectionIdleTimeout nodeStatusUpdateFrequency
nodeStatusReportFrequency nodeLeaseDurationSeconds imageMinimumGCAge imageMaximumGCAge imageGCHighThresholdPercent
imageGCLowThresholdPercent volumeStatsAggPeriod kubeletCgroups systemCgroups cgroupRoot cgroupsPerQOS cgroupDriver
cpuManagerPolicy singleProcessOOMKill cpuManagerPolicyOptions cpuManagerReconcilePeriod memoryManagerPolicy
topologyManagerPolicy topologyManagerScope topologyManagerPolicyOptions qosReserved runtimeRequestTimeout hairpinMode maxPods
podCIDR podPidsLimit resolvConf runOnce cpuCFSQuota cpuCFSQuotaPeriod nodeStatusMaxImages maxOpenFiles contentType kubeAPIQPS
kubeAPIBurst serializeImagePulls maxParallelImagePulls evictionHard evictionSoft evictionSoftGracePeriod
evictionPressureTransitionPeriod evictionMaxPodGracePeriod evictionMinimumReclaim mergeDefaultEvictionSettings podsPerCore
enableControllerAttachDetach protectKernelDefaults makeIPTablesUtilChains iptablesMasqueradeBit iptablesDropBit featureGates
failSwapOn memorySwap containerLogMaxSize containerLogMaxFiles containerLogMaxWorkers containerLogMonitorInterval
configMapAndSecretChangeDetectionStrategy systemReserved kubeReserved reservedSystemCPUs showHiddenMetricsForVersion
systemReservedCgroup kubeReservedCgroup enforceNodeAllocatable allowedUnsafeSysctls volumePluginDir providerID
kernelMemcgNotification logging enableSystemLogHandler enableSystemLogQuery shutdownGracePeriod
shutdownGracePeriodCriticalPods shutdownGracePeriodByPodPriority crashLoopBackOff reservedMemory enableProfilingHandler
enableDebugFlagsHandler seccompDefault memoryThrottlingFactor registerWithTaints registerNode tracing
localStorageCapacityIsolation containerRuntimeEndpoint imageServiceEndpoint failCgroupV1 userNamespaces
"""
"""k8s.io/kubelet/config/v1beta1, KubeletConfiguration."""


def test_each_of_upstreams_keys_is_read_or_refused_in_words() -> None:
    """And configz, which shows what is read, names no other."""
    shown = set(settings.render(load("--provider-id", "x"))) | {"maxParallelImagePulls"}
    whole = config.shown(load())
    assert (whole["cgroupDriver"], whole["evictionHard"]["memory.available"], whole["kind"]) == (
        "cgroupfs",
        "100Mi",
        "KubeletConfiguration",
    )
    foreign = {key for key in FOREIGN if "." not in key}
    assert shown & foreign == set()
    assert set(UPSTREAM.split()) == shown | foreign


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("evictionSoft: {memory.available: 1Gi}\n", 'evictionSoft: {"memory.available":"1Gi"}: pods are not evicted'),
        ("featureGates: {SidecarContainers: true}\n", "featureGates: "),
        ("cpuManagerPolicy: static\n", "cpuManagerPolicy: static: containers are not pinned"),
        ("logging: {format: json}\n", "logging.format: json: the log is text"),
        ("shutdownGracePeriod: 30s\n", "shutdownGracePeriod: 30s: graceful node shutdown"),
        ("syncFrequency: soon\n", "syncFrequency: 'soon' is not a duration; write it like 30s or 1m30s"),
        ("kubeReserved: {memory: lots}\n", "kubeReserved.memory: 'lots' is no quantity; write it like 100m"),
        ("kubeReserved: {gpu: '1'}\n", "kubeReserved.gpu: unknown resource; known are cpu, memory"),
        ("evictionHard: {memory.free: 1Gi}\n", "evictionHard.memory.free: unknown signal; known are memory.available"),
        ("evictionHard: {nodefs.available: 110%}\n", "evictionHard.nodefs.available: '110%': write a share"),
        ("failSwapOn: 'yes'\n", "failSwapOn: expected bool, got str"),
        ("containerLogMaxSize: 10Q\n", "containerLogMaxSize: '10Q' is no quantity"),
        ("containerLogMaxFiles: 1\n", "containerLogMaxFiles: 1: at least 2"),
        ("imageGCHighThresholdPercent: 50\n", "imageGCLowThresholdPercent 80, imageGCHighThresholdPercent 50: "),
        ("imageMaximumGCAge: 2m\n", "imageMaximumGCAge: must be longer than imageMinimumGCAge"),
        ("tlsMinVersion: VersionTLS11\n", "tlsMinVersion: 'VersionTLS11': write VersionTLS12 or VersionTLS13"),
        ("maxParallelImagePulls: 3\n", "maxParallelImagePulls: 3: at least 1, and more than 1 only with"),
        ("staticPodURL: ftp://x\n", "staticPodURL: 'ftp://x': write http://"),
        ("authorization: {mode: RBAC}\n", "authorization.mode: "),
    ],
)
def test_refusals_name_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        from_file(tmp_path, text)


def test_drop_ins_are_merged_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    head = f"apiVersion: {config.API_VERSION}\nkind: {config.KIND}\n"
    (folder / "20-b.conf").write_text(head + "maxPods: 30\nclusterDNS: [10.0.0.2]\nkubeReserved: {cpu: null}\n")
    (folder / "10-a.conf").write_text(head + "maxPods: 20\nkubeReserved: {memory: 1Gi}\n")
    (folder / "ignored.yaml").write_text("no configuration")
    file = tmp_path / "kubelet.yaml"
    file.write_text(head + "maxPods: 10\nkubeReserved: {cpu: 100m}\nclusterDNS: [10.0.0.1]\nsyncFrequency: 5s\n")
    found = load("--config", str(file), "--config-dir", str(folder))
    assert (found.max_pods, found.cluster_dns, found.sync_frequency) == (30, ("10.0.0.2",), 5)
    assert found.kube_reserved == {"memory": "1Gi"}
    assert load("--config-dir", str(folder), "--max-pods", "7").max_pods == 7
    (folder / "30-c.conf").write_text(head + "maxPodz: 1\n")
    with pytest.raises(UsageError, match=r"--config-dir .*/30-c.conf: maxPodz: unknown key; did you mean maxPods"):
        load("--config-dir", str(folder))


@pytest.mark.parametrize(
    ("labels", "fine"),
    [
        ("a=b,example.com/x=y", True),
        ("topology.kubernetes.io/zone=a,node.kubernetes.io/x=y,kubelet.kubernetes.io/z=1", True),
        ("node-role.kubernetes.io/control-plane=", False),
        ("kubernetes.io/other=x", False),
    ],
)
def test_a_node_labels_itself_only_with_its_own(labels: str, fine: bool) -> None:
    if fine:
        assert load("--node-labels", labels).node_labels
    else:
        with pytest.raises(UsageError, match="a node may not give itself this label"):
            load("--node-labels", labels)


def test_thresholds_by_flag_are_written_as_upstream_writes_them() -> None:
    assert load("--eviction-hard", "memory.available<1Gi,nodefs.available<5%").thresholds == {
        "memory.available": "1Gi",
        "nodefs.available": "5%",
    }


def test_two_addresses_are_of_two_families() -> None:
    assert load("--node-ip", "10.0.0.1,fd00::1").node_ips == ("10.0.0.1", "fd00::1")
    with pytest.raises(UsageError, match="one address, or two"):
        load("--node-ip", "10.0.0.1,10.0.0.2")


def test_every_key_is_read_somewhere() -> None:
    sources = "".join(path.read_text() for path in ROOM.rglob("*.py") if path.name != "config.py")
    own = (ROOM / "config.py").read_text()  # whose properties read for others
    unread = [
        name
        for name in _fields(config.Config)
        if not re.search(rf"config\.{re.escape(name)}\b", sources) and not re.search(rf"self\.{re.escape(name)}\b", own)
    ]
    assert unread == []


def test_every_key_and_flag_is_in_the_documentation() -> None:
    text = (ROOM.parent / "docs/kubelet-node.md").read_text()
    words = set(re.findall(r"[\w-]+", text))
    keys = set(settings.render(load("--provider-id", "x"))) | {"maxParallelImagePulls"}
    assert keys - words == set()
    flags = {"--kubeconfig", "--bootstrap-kubeconfig", "--cert-dir", "--config-dir", "--cloud-provider", "--node-ip"}
    assert {flag for flag in flags if flag not in text} == set()


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


def test_what_opens_the_web_server_of_static_pods_is_not_shown(tmp_path: Path) -> None:
    text = "staticPodURL: https://user:pw@x:8/a@b\nstaticPodURLHeader: {Authorization: [Bearer SECRET], Empty: []}\n"
    shown = config.shown(from_file(tmp_path, text))
    assert shown["staticPodURL"] == "https://x:8/a@b"
    assert shown["staticPodURLHeader"] == {"Authorization": ["<masked>"], "Empty": []}
    assert config.shown(load())["staticPodURL"] == ""
