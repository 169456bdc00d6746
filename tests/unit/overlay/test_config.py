"""The door: flannel's flags as Go spells them, its environment, the file; bad input gets one line that names the flag."""

from pathlib import Path

import pytest

from kube.errors import UsageError
from overlay import config, flags

HOME_FLAGS = (
    *("etcd-endpoints", "etcd-prefix", "etcd-keyfile", "etcd-certfile", "etcd-cafile"),
    *("etcd-username", "etcd-password", "iface", "iface-regex", "iface-can-reach"),
    *("subnet-file", "public-ip", "public-ipv6", "subnet-lease-renew-margin", "ip-masq"),
    *("ip-masq-fully-random-disable", "kube-subnet-mgr", "kube-api-url", "kube-annotation-prefix", "kubeconfig-file"),
    *("healthz-ip", "healthz-port", "iptables-resync", "iptables-forward-rules", "ip-blackhole-route"),
    *("net-config-path", "set-node-network-unavailable"),
)
"""All of flanneld's own, as its --help lists them."""


@pytest.mark.parametrize("flag", HOME_FLAGS)
@pytest.mark.parametrize("dashes", ["-", "--"])
def test_each_flag_of_flannels_is_known(flag: str, dashes: str) -> None:
    values = {
        "iface-regex": "eth[0-9]{1,2}", "iface-can-reach": "10.0.0.1", "public-ip": "10.0.0.1", "public-ipv6": "fd00::1",
        "subnet-lease-renew-margin": "30", "healthz-port": "1", "iptables-resync": "7", "etcd-prefix": "/a",
        "etcd-endpoints": "http://a:1,https://b:2", "healthz-ip": "127.0.0.1",
    }  # fmt: skip
    together = {
        "etcd-keyfile": ["--etcd-certfile=c"], "etcd-certfile": ["--etcd-keyfile=k"], "etcd-username": ["--etcd-password=p"],
        "etcd-password": ["--etcd-username=u"], "iface-can-reach": [],
    }  # fmt: skip
    truths = ("ip-masq", "kube-subnet-mgr", "ip-blackhole-route", "ip-masq-fully-random-disable")
    given = f"{dashes}{flag}" + ("" if flag in truths else f"={values.get(flag, 'true')}")
    config.load([given, *together.get(flag, [])])


def test_flags_as_a_daemonset_of_flannels_has_them() -> None:
    loaded = config.load(
        ["--ip-masq", "--kube-subnet-mgr", "-iface=eth1", "--iface", "eth2", "-v", "10", "-healthz-port", "0"]
    )
    assert (loaded.ip_masq, loaded.kube, loaded.iface, loaded.door) == (True, True, ("eth1", "eth2"), "")


def test_a_pattern_may_hold_commas() -> None:
    assert config.load(["--iface-regex=eth[0-9]{1,2}", "--kubeconfig=k"]).iface_regex == ("eth[0-9]{1,2}",)


def test_gos_truths() -> None:
    assert config.load(["-ip-masq=T"]).ip_masq
    assert not config.load(["-ip-masq=f"]).ip_masq


def test_the_environment_says_what_flags_do_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text(
        "apiVersion: wherry.io/v1alpha1\nkind: OverlayConfiguration\nkubeconfig: /k\niface: eth8\nresync: 10s\n"
        "publicIp: 10.0.0.1\n"
    )
    monkeypatch.setenv("FLANNELD_IFACE", "eth9")
    monkeypatch.setenv("FLANNELD_IP_MASQ", "true")
    monkeypatch.setenv("FLANNELD_PUBLIC_IP", "10.0.0.9")
    monkeypatch.setenv("FLANNELD_SERVICE_HOST", "10.96.0.7")  # Kubernetes' own, beside a Service `flanneld`
    loaded = config.load(["--config", str(file), "--public-ip=10.0.0.2"])
    assert (loaded.iface, loaded.ip_masq, loaded.public_ip) == (("eth9",), True, "10.0.0.2"), "flag > variable > file"
    assert (loaded.kubeconfig, loaded.resync) == ("/k", 10.0)


def test_flannels_kubeconfig_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.load(["-kubeconfig-file", "/a"]).kubeconfig == "/a"
    monkeypatch.setenv("FLANNELD_KUBECONFIG_FILE", "/b")
    assert config.load([]).kubeconfig == "/b"


@pytest.mark.parametrize(
    ("argv", "kube"),
    [
        ([], False),
        (["--kubeconfig=k"], True),
        (["--kube-api-url=https://a"], True),
        (["--kube-subnet-mgr"], True),
        (["--kubeconfig=k", "--kube-subnet-mgr=false"], False),
        (["--etcd-endpoints=http://a:2379"], False),
    ],
)
def test_which_registry(argv: list[str], kube: bool) -> None:
    assert config.load(argv).kube is kube


@pytest.mark.parametrize(
    ("argv", "door"),
    [
        ([], "0.0.0.0:10262"),
        (["--healthz-port=8471"], "0.0.0.0:8471"),
        (["--healthz-ip=127.0.0.1"], "127.0.0.1:10262"),
        (["--healthz-ip=::1", "--healthz-port=1"], "[::1]:1"),
        (["--healthz-port=0"], ""),
        (["--healthz-bind-address=0"], ""),
        (["--healthz-bind-address=127.0.0.1:7"], "127.0.0.1:7"),
    ],
)
def test_the_door_of_health_and_metrics(argv: list[str], door: str) -> None:
    assert config.load(argv).door == door


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--kubeconfig=k", "--iface=eth1", "--iface-can-reach=10.0.0.1"], "--iface and --iface-can-reach"),
        (["--kubeconfig=k", "--public-ip=here"], "--public-ip: .*give an IP address"),
        (["--kubeconfig=k", "--public-ip=fd00::1"], "--public-ip: .*--public-ipv6 takes it"),
        (["--kubeconfig=k", "--resync=0"], "--resync: 0s is too often"),
        (["--kubeconfig=k", "--kube-annotation-prefix=a/b/c"], "--kube-annotation-prefix: 'a/b/c'"),
        (["--iface-regex=["], r"--iface-regex: '\[' is no pattern"),
        (["--ifce=eth0"], "--ifce: unknown flag; did you mean --iface"),
        (["-charon-executable-path=/x"], "--charon-executable-path: .*use the backend wireguard"),
        (["-listen=:8888"], "--listen: .*remove it"),
        (["--kubeconfig=k", "--etcd-endpoints=http://a:1"], "two registries: say which by --kube-subnet-mgr"),
        (["--etcd-endpoints=unix:///a"], "--etcd-endpoints: 'unix:///a' is not http://"),
        (["--etcd-prefix=net"], "--etcd-prefix: 'net' is not a path"),
        (["--etcd-keyfile=k"], "--etcd-certfile and --etcd-keyfile belong together"),
        (["--etcd-username=u"], "--etcd-username and --etcd-password belong together"),
        (["--subnet-lease-renew-margin=1440"], "--subnet-lease-renew-margin: 1440 minutes"),
        (["--healthz-port=70000"], "--healthz-port: 70000 is not a port"),
    ],
)
def test_flags_are_refused_in_words(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        config.load(argv)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("more", "endpoints"),
    [
        ([], ("http://a:2379", "http://[fd00::1]:2379", "https://b:2379")),
        (["--etcd-cafile=ca"], ("https://a:2379", "https://[fd00::1]:2379", "https://b:2379")),
    ],
)
def test_an_endpoint_without_a_scheme_is_encrypted_where_there_are_certificates(
    more: list[str], endpoints: tuple[str, ...]
) -> None:
    assert config.load(["-etcd-endpoints=a:2379,[fd00::1]:2379,https://b:2379", *more]).etcd_endpoints == endpoints


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IP_MASQ", "HEALTHZ_PORT", "IFACE", "KUBECONFIG_FILE"):
        monkeypatch.setenv(f"FLANNELD_{name}", "")
    assert config.load([]) == config.Config()


def test_cleaning_up_needs_nothing_else() -> None:
    assert config.load(["--cleanup", "--etcd-endpoints=nonsense"]).cleanup


def test_klogs_flags_are_taken_and_shape_nothing() -> None:
    given = flags.spelt(
        ["-v=4", "-v", "4", "--logtostderr", "-alsologtostderr=true", "-log_dir", "/x", "--iface=e"], ()
    )
    assert given == ["--iface=e"]


def test_a_file_says_what_flags_say(tmp_path: Path) -> None:
    file = tmp_path / "overlay.yaml"
    file.write_text(
        "apiVersion: wherry.io/v1alpha1\nkind: OverlayConfiguration\nkubeconfig: /k\nipMasq: true\niptablesResync: 10s\n"
        "ifaceRegex: [a, 'b{1,2}']\n"
    )
    loaded = config.load(["--config", str(file), "--iface", "eth1"])
    assert (loaded.kubeconfig, loaded.ip_masq, loaded.iptables_resync, loaded.iface) == ("/k", True, 10.0, ("eth1",))
    assert loaded.iface_regex == ("a", "b{1,2}")


@pytest.mark.parametrize(
    ("prefix", "keys"), [("a.b", "a.b/"), ("a.b/c", "a.b/c-"), ("a.b/", "a.b/"), ("a.b/c-", "a.b/c-")]
)
def test_the_annotation_prefix_gets_flannels_separator(prefix: str, keys: str) -> None:
    assert config.annotation_prefix(prefix) == keys
