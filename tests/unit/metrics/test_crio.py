"""Containers' names from what CRI-O leaves on disk: recorded shapes, for CRI-O itself is not to be had here."""

import json
import shutil
from pathlib import Path

from metrics.identities.crio import CrioIdentities

_LABELS = {"io.kubernetes.pod.name": "web", "io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.uid": "u1"}


def written(state: Path, name: str, kind: str) -> Path:
    crio = "io.kubernetes.cri-o."
    labels = _LABELS if kind == "sandbox" else {**_LABELS, "io.kubernetes.container.name": "nginx"}
    notes = {
        f"{crio}ContainerType": kind,
        f"{crio}Name": f"k8s_nginx_web_shop_u1_0_{name}",
        f"{crio}ImageName": "registry.example/web:1",
        f"{crio}Labels": json.dumps(labels),
    }
    folder = state / name / "userdata"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"annotations": notes, "process": {"env": ["TIER=gold"]}}))
    return folder


def test_a_pod_is_its_sandbox_and_its_containers(tmp_path: Path) -> None:
    written(tmp_path, "aaa", "sandbox")
    written(tmp_path, "bbb", "container")
    crio = CrioIdentities(str(tmp_path), ["TI"])
    found = crio()
    assert {(i.id, i.sandbox, i.container) for i in found.values()} == {("aaa", True, ""), ("bbb", False, "nginx")}
    one = found["bbb"]
    assert (one.pod, one.namespace, one.pod_uid, one.image) == ("web", "shop", "u1", "registry.example/web:1")
    assert one.env == {"TIER": "gold"}
    shutil.rmtree(tmp_path / "bbb")
    assert set(crio()) == {"aaa"}


def test_podmans_and_torn_ones_are_left_out(tmp_path: Path) -> None:
    (written(tmp_path, "aaa", "container") / "config.json").write_text('{"annotations": {')
    (written(tmp_path, "bbb", "container") / "config.json").write_text('{"annotations": {"io.podman": "x"}}')
    (written(tmp_path, "ccc", "container") / "config.json").write_text("[]")
    assert CrioIdentities(str(tmp_path))() == {}


def test_no_directory_is_said_where_it_was_named(tmp_path: Path) -> None:
    named, usual = CrioIdentities(f"{tmp_path}/none"), CrioIdentities(f"{tmp_path}/none", optional=True)
    assert named() == usual() == {}
    assert "name it with --crio" in named.error
    assert usual.error == ""
