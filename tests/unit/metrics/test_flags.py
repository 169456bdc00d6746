"""cAdvisor's flags: read, or refused in words that say what to do."""

import pytest

from kube.errors import UsageError
from kube.settings import flags
from metrics import config
from metrics.config import Config, load
from metrics.daemon import _path, _sources


def test_a_cadvisors_command_line_is_understood() -> None:
    found = load(
        [
            *(
                "-port=9100",
                "--listen_ip=127.0.0.1",
                "-docker_only",
                "--housekeeping_interval=30s",
                "-logtostderr",
                "-v=2",
            ),
            *("--disable_metrics=percpu,tcp,udp", "--store_container_labels=false", "--storage_duration=2m0s"),
            *("--whitelisted_container_labels=io.kubernetes.pod.name", "--env_metadata_whitelist=TIER"),
            *("--raw_cgroup_prefix_whitelist=/system.slice", "--url_base_prefix=/cadvisor", "--prometheus_endpoint=/m"),
            *(
                "--docker=tcp://10.0.0.1:2375",
                "--containerd=/run/containerd/containerd.sock",
                "--containerd-namespace=k8s.io",
            ),
            *("--machine_id_file=/a,/b", "--log_dir="),
        ]
    )
    assert found == Config(
        port=9100,
        listen_ip="127.0.0.1",
        docker_only=True,
        housekeeping_interval=30.0,
        v=2,
        disable_metrics=("percpu", "tcp", "udp"),
        storage_duration=120.0,
        whitelisted_container_labels=("io.kubernetes.pod.name",),
        env_metadata_whitelist=("TIER",),
        raw_cgroup_prefix_whitelist=("/system.slice",),
        url_base_prefix="/cadvisor",
        prometheus_endpoint="/m",
        docker="tcp://10.0.0.1:2375",
        containerd="/run/containerd/containerd.sock",
        machine_id_file=("/a", "/b"),
    )
    sources = _sources(found)
    assert set(sources) == {"docker", "containerd", "crio"}
    sources["containerd"]()
    assert sources["containerd"].error == ""  # the usual place: not being there is no error


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["--max_housekeeping_interval=15s"], "no such loop to slow down"),
        (["-http_auth_file", "x"], "put a proxy before it"),
        (["--docker-tls"], "TLS to Docker is not spoken"),
        (["--perf_events_config=/x"], "are not read"),
        (["--prot=1"], "did you mean --port"),
    ],
)
def test_what_has_no_meaning_here_is_refused_in_words(words: list[str], remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        load(words)


def test_no_runtime_is_asked_that_is_not_named() -> None:
    assert _sources(load(["--docker=", "--containerd=", "--crio="])) == {}


@pytest.mark.parametrize("path", ["metrics", "/a{b}", "/a?b"])
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(UsageError, match=r"--prometheus_endpoint: .* is not a path"):
        _path("--prometheus_endpoint", path)


def test_no_flag_is_both_read_and_refused() -> None:
    ours = {flag.replace("-", "").lower() for flag in flags(Config)}
    assert not ours & set(config.FOREIGN)
