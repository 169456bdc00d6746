"""A lab whose nodes have a containerd each, and one whose control plane is static pods: as files to be read."""

import hashlib
import io
import json
import tarfile
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube.errors import UsageError
from lab import containerd, images, mounts
from lab.model import Node, StaticImage, Topology
from lab.plan import topology
from tests.unit.lab.test_plan import LAB

ON_CONTAINERD = replace(LAB, docker="", own_docker=False, prometheus="", snapshotter="overlayfs")
STATIC = replace(
    ON_CONTAINERD, static=StaticImage("wherry.local/wherry:1", ("/opt/venv", "/usr")), etcd="/usr/bin/etcd"
)


def pods(made: Topology) -> dict[str, dict[str, Any]]:
    found = [yaml.safe_load(text) for path, text in made.files.items() if "/manifests/" in path]
    return {pod["metadata"]["name"]: pod for pod in found}


def test_every_daemon_of_a_node_sees_its_files_alike() -> None:
    made = topology(ON_CONTAINERD)
    for node in made.nodes:
        mine = [daemon for daemon in made.daemons if daemon.node == node.name]
        assert {daemon.spaces for daemon in mine} == {node.spaces}
        assert node.spaces in made.views
        kubelet = next(d for d in mine if d.name.endswith("/kubelet"))
        assert f"{node.name}/containerd" in kubelet.after
        assert not [word for word in kubelet.argv if word.startswith("--cni")], "the runtime does CNI"
    assert not topology(LAB).views


def test_a_containerds_configuration() -> None:
    made = topology(ON_CONTAINERD)
    for node in made.nodes:
        config = tomllib.loads(made.files[f"{node.state}/containerd.toml"])
        kubelet = json.loads(made.files[f"{node.state}/kubelet.yaml"])
        cri = config["plugins"]["io.containerd.grpc.v1.cri"]
        assert config["root"].startswith(f"{node.state}/")
        assert kubelet["containerRuntimeEndpoint"] == f"unix://{config['grpc']['address']}"
        assert config["cgroup"]["path"].startswith(f"{node.cgroup}/")
        assert cri["cni"]["conf_dir"] == f"{node.state}/cni/net.d"
        assert cri["restrict_oom_score_adj"] is True


def test_what_a_runtime_class_may_name() -> None:
    made = topology(replace(ON_CONTAINERD, handlers={"crun": "/opt/a b/crun"}))
    config = tomllib.loads(made.files[f"{made.nodes[0].state}/containerd.toml"])
    runtimes = config["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]
    assert {name: found["options"]["BinaryName"] for name, found in runtimes.items()} == {
        "runc": "runc",
        "crun": "/opt/a b/crun",
    }


def test_each_node_has_plugins_that_know_its_agent() -> None:
    for lab in (LAB, ON_CONTAINERD):
        made = topology(lab)
        sockets = set()
        for node in made.nodes:
            network = json.loads(made.files[f"{node.state}/cni/net.d/10-wherry.conflist"])
            assert [plugin["type"] for plugin in network["plugins"]] == ["wherry-cni", "portmap", "bandwidth"]
            assert network["plugins"][0]["agent"] is True
            (agent,) = [daemon for daemon in made.daemons if daemon.name == f"{node.name}/cni"]
            (kubelet,) = [daemon for daemon in made.daemons if daemon.name == f"{node.name}/kubelet"]
            assert agent.name in kubelet.after
            assert agent.namespace == node.namespace
            sockets |= {word for word in agent.argv if word.startswith("--socket=")}
        assert len(sockets) == len(made.nodes)


def test_the_control_plane_as_static_pods(golden: Callable[[Path, str], None]) -> None:
    made = topology(STATIC)
    texts = [f"# {path}\n{text}" for path, text in made.files.items() if "/manifests/" in path]
    golden(Path(__file__).parent / "golden" / "static-control-plane.yaml", "---\n".join(texts))


def test_static_pods_take_the_daemons_place() -> None:
    """The same command lines, on node1 only, and nobody waits for a daemon that is none."""
    made, daemons = topology(STATIC), topology(replace(STATIC, static=None)).daemons
    names = {"etcd": "etcd", "kube-apiserver": "apiserver"} | {
        "kube-controller-manager": "controllers",
        "kube-scheduler": "scheduler",
    }
    found = pods(made)
    assert found.keys() == names.keys()
    for name, short in names.items():
        (container,) = found[name]["spec"]["containers"]
        (daemon,) = [d for d in daemons if d.name == f"node1/{short}"]
        assert tuple(container["command"]) == daemon.argv
        assert found[name]["spec"]["hostNetwork"] is True
    there = {daemon.name for daemon in made.daemons}
    assert not {f"node1/{short}" for short in names.values()} & there
    assert all(set(daemon.after) <= there for daemon in made.daemons)
    asked = {node.name: json.loads(made.files[f"{node.state}/kubelet.yaml"]) for node in made.nodes}
    assert asked["node1"]["staticPodPath"] == f"{made.nodes[0].state}/manifests"
    assert "staticPodPath" not in asked["node2"]


def test_what_a_static_pod_mounts_and_may_write() -> None:
    for name, pod in pods(topology(STATIC)).items():
        volumes = {volume["name"]: volume["hostPath"] for volume in pod["spec"]["volumes"]}
        (container,) = pod["spec"]["containers"]
        writable = [volumes[m["name"]]["path"] for m in container["volumeMounts"] if not m.get("readOnly")]
        expected = {"kube-apiserver": ["/state/x/node1/apiserver"], "etcd": ["/state/x/node1/etcd"]}
        assert writable == expected.get(name, [])


def test_an_archive_is_the_same_each_time_and_says_what_it_holds() -> None:
    made = [images.pause(), images.skeleton("wherry.local/wherry:1", {"lib": "usr/lib"})]
    packed = images.archive(made)
    assert packed == images.archive([images.pause(), images.skeleton("wherry.local/wherry:1", {"lib": "usr/lib"})])
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:

        def read(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file
            return file.read()

        listed = json.loads(read("manifest.json"))
        assert [entry["RepoTags"] for entry in listed] == [[image.name] for image in made]
        for entry in listed:
            config = read(entry["Config"])
            assert entry["Config"] == hashlib.sha256(config).hexdigest() + ".json"
            (layer,) = [read(name) for name in entry["Layers"]]
            assert json.loads(config)["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]


@pytest.mark.parametrize("state", ["/run/labs/x", "/var/lib/cni/x"])
def test_a_state_directory_that_nodes_would_not_see(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd.shutil, "which", lambda *_a, **_k: "/usr/bin/there")
    with pytest.raises(UsageError, match="choose another"):
        containerd.check(state)


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containerd.shutil, "which", lambda *_a, **_k: None)
    with pytest.raises(UsageError, match="apt-get install containerd"):
        containerd.check("/state")


def test_a_view_quotes_its_paths() -> None:
    node = Node("node1", 1, LAB_ADDRESS, "n", "/state/a b/node1", "/c")
    assert all("'/state/a b/node1" in line for line in mounts.view(node.name, node.state) if "a b" in line)


LAB_ADDRESS = topology(LAB).nodes[0].address
