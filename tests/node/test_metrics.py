"""A container that burns, allocates, writes and sends: what the metrics say is what it did."""

import json
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metrics.collector import Collector
from metrics.exposition import FULL, Page
from metrics.identities.docker import DockerIdentities
from tests.dockerd import Dockerd
from tests.node.host import until
from tests.requirements import requires

UID = str(uuid.UUID(int=7))
LABELS = {
    "io.wherry.node": "metrics-test",
    "io.kubernetes.pod.name": "busy",
    "io.kubernetes.pod.namespace": "default",
    "io.kubernetes.pod.uid": UID,
}
MIB = 2**20

Figures = dict[str, float]
Start = Callable[..., str]


@pytest.fixture
def start(dockerd: Dockerd, cgroup_parent: str) -> Iterator[Start]:
    """Start a container of the pod; its id. It sleeps until it is told what to do by `exec`."""
    requires("root", "dockerd")
    client = dockerd.client()
    made: list[str] = []

    def begin(kind: str = "container", name: str = "app", network: str = "none") -> str:
        labels = {**LABELS, "io.kubernetes.docker.type": kind, "io.kubernetes.container.name": name}
        config = client.create_host_config(
            network_mode=network, cgroup_parent=f"{cgroup_parent}/kubepods/pod{UID}", mem_limit="256m", init=False
        )
        row = client.create_container(dockerd.image, ["sleep", "1000"], labels=labels, host_config=config)
        made.append(row["Id"])
        client.start(row["Id"])
        return str(row["Id"])

    yield begin
    for one in made:
        client.remove_container(one, force=True, v=True)
    client.close()


@pytest.fixture
def scrape(dockerd: Dockerd, cgroup_parent: str) -> Iterator[Callable[[str], Figures]]:
    """The pod's or a container's figures: `name` or `name{extra}` to value."""
    docker = DockerIdentities(dockerd.host, "metrics-test")
    collector = Collector(docker, cgroup_parent, fresh=-1.0)
    page = Page(FULL)
    six = ("container", "id", "image", "name", "namespace", "pod")

    def figures(container: str) -> Figures:
        found: Figures = {}
        for family in text_string_to_metric_families(page.text(collector.snapshot()).decode()):
            for sample in family.samples:
                if sample.labels.get("pod") != "busy" or sample.labels["container"] != container:
                    continue
                # A pod's network is its sandbox's, everything else its own group's.
                if bool(sample.labels["name"]) == (bool(container) or "_network_" in sample.name):
                    extra = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k not in six)
                    found[f"{sample.name}{{{extra}}}" if extra else sample.name] = sample.value
        return found

    yield figures
    collector.close()
    docker.close()


def do(dockerd: Dockerd, container: str, script: str) -> None:
    client = dockerd.client()
    try:
        row = client.exec_create(container, ["sh", "-c", script])
        output = client.exec_start(row["Id"])
        assert client.exec_inspect(row["Id"])["ExitCode"] == 0, output
    finally:
        client.close()


def test_cpu_and_memory(dockerd: Dockerd, start: Start, scrape: Callable[[str], Figures]) -> None:
    container = start()
    before = until(lambda: scrape("app"), "Docker to tell of the container")
    began = time.monotonic()
    # A shell loop that spins until its own clock of user and system time says that it has had a second.
    do(dockerd, container, "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; times")
    wall = time.monotonic() - began
    after = scrape("app")
    burnt = (
        after["container_cpu_usage_seconds_total{cpu=total}"] - before["container_cpu_usage_seconds_total{cpu=total}"]
    )
    assert 0.05 < burnt <= wall * 1.1
    docker = dockerd.client()
    truth = docker.stats(container, stream=False)
    docker.close()
    assert after["container_cpu_usage_seconds_total{cpu=total}"] == pytest.approx(
        truth["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, abs=0.2
    )
    assert after["container_spec_memory_limit_bytes"] == 256 * MIB
    # A file in memory is the group's own until it is removed.
    do(dockerd, container, "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 2>/dev/null")
    full = scrape("app")
    assert full["container_memory_usage_bytes"] - after["container_memory_usage_bytes"] == pytest.approx(
        40 * MIB, rel=0.1
    )
    assert full["container_memory_working_set_bytes"] >= 40 * MIB
    do(dockerd, container, "rm /dev/shm/x")
    assert scrape("app")["container_memory_usage_bytes"] < 20 * MIB


def test_what_is_written_is_counted(dockerd: Dockerd, start: Start, scrape: Callable[[str], Figures]) -> None:
    container = start()
    until(lambda: scrape("app"), "Docker to tell of the container")
    before = sum(v for k, v in scrape("app").items() if k.startswith("container_fs_writes_bytes_total"))
    do(dockerd, container, "dd if=/dev/zero of=/x bs=1M count=16 conv=fsync 2>/dev/null")
    written = sum(v for k, v in scrape("app").items() if k.startswith("container_fs_writes_bytes_total")) - before
    if not written:
        pytest.skip("this machine's block layer charges no group (overlay on tmpfs, or virtual disks)")
    assert written == pytest.approx(16 * MIB, rel=0.25)


def test_what_is_sent_is_counted_on_the_pod(
    dockerd: Dockerd,
    start: Start,
    scrape: Callable[[str], Figures],
) -> None:
    sandbox = start("podsandbox", "POD")
    client = dockerd.client()
    pid = client.inspect_container(sandbox)["State"]["Pid"]
    client.close()
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "ip"]
    for words in (
        "link add eth0 type veth peer name peer0",
        "link set eth0 up",
        "link set peer0 up",
        "address add 192.0.2.1/24 dev eth0",
        "neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev eth0",
    ):
        subprocess.run([*inside, *words.split()], check=True)
    name = "container_network_transmit_bytes_total{interface=eth0}"
    until(lambda: name in scrape(""), "Docker to tell of the sandbox")
    before = scrape("")[name]
    # 100 datagrams of 1000 bytes, each with 42 of headers.
    send = (
        "import socket as so; s = so.socket(so.AF_INET, so.SOCK_DGRAM)\n"
        "for _ in range(100): s.sendto(b'x' * 1000, ('192.0.2.2', 9))"
    )
    subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "python3", "-c", send], check=True)
    after = scrape("")
    assert after[name] - before == pytest.approx(104_200, rel=0.05)
    truth = json.loads(
        subprocess.run([*inside, "-j", "-s", "link", "show", "eth0"], check=True, capture_output=True, text=True).stdout
    )
    assert scrape("")[name] == pytest.approx(truth[0]["stats64"]["tx"]["bytes"], abs=500)


def test_containers_that_come_and_go_leave_nothing_behind(
    dockerd: Dockerd,
    start: Start,
    scrape: Callable[[str], Figures],
    trial: Callable[[int, int], int],
) -> None:
    client = dockerd.client()
    for _ in range(trial(3, 60)):
        container = start(name="brief")
        until(lambda: scrape("brief"), "Docker to tell of the container")
        client.kill(container)
        client.wait(container)
        assert not scrape("brief")
    client.close()


def test_dockers_absence_keeps_what_is_known(tmp_path: Path) -> None:
    """A socket that was named and is not there, and one that nobody answers, are a runtime in trouble."""
    identities = DockerIdentities(f"unix://{tmp_path}/none.sock")
    collector = Collector(identities, fresh=-1.0, status=lambda: (identities.error, ""))
    try:
        assert collector.snapshot().failed
        assert "none.sock" in identities.error
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(f"{tmp_path}/none.sock")
            assert collector.snapshot().failed
            assert "none.sock" in identities.error
    finally:
        collector.close()
        identities.close()
