"""Containers' names from what containerd's CRI service leaves on disk."""

import json
import os
import shutil
from pathlib import Path

from metrics.identities.containerd import ContainerdIdentities


def task(state: Path, name: str, kind: str, *, running: bool = True) -> Path:
    bundle = state / "io.containerd.runtime.v2.task/k8s.io" / name
    bundle.mkdir(parents=True)
    notes = {
        "io.kubernetes.cri.container-type": kind,
        "io.kubernetes.cri.sandbox-name": "web",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": "u1",
        **(
            {"io.kubernetes.cri.container-name": "nginx", "io.kubernetes.cri.image-name": "registry/web:1"}
            if kind == "container"
            else {"io.kubernetes.cri.podsandbox.image-name": "registry/pause:3"}  # containerd 2 and later
        ),
    }
    (bundle / "config.json").write_text(json.dumps({"annotations": notes}))
    if running:
        (bundle / "init.pid").write_text("1234")
    return bundle


def test_a_pod_is_its_sandbox_and_its_containers(tmp_path: Path) -> None:
    task(tmp_path, "aaa", "sandbox")
    task(tmp_path, "bbb", "container")
    found = ContainerdIdentities(str(tmp_path))()
    assert {(i.id, i.sandbox, i.container) for i in found.values()} == {("aaa", True, ""), ("bbb", False, "nginx")}
    assert found["aaa"].image == "registry/pause:3"
    one = found["bbb"]
    assert (one.pod, one.namespace, one.pod_uid, one.image) == ("web", "shop", "u1", "registry/web:1")
    assert one.started is not None
    assert one.started > 0


def test_what_is_being_made_or_is_torn_has_no_name_yet(tmp_path: Path) -> None:
    (task(tmp_path, "ccc", "container") / "config.json").write_text('{"annotations": {')
    pending = task(tmp_path, "ddd", "container", running=False)
    identities = ContainerdIdentities(str(tmp_path))
    assert identities() == {}
    (pending / "init.pid").write_text("1")
    assert set(identities()) == {"ddd"}
    shutil.rmtree(pending)
    assert identities() == {}


def test_no_directory_is_said(tmp_path: Path) -> None:
    identities = ContainerdIdentities(str(tmp_path / "none"))
    assert identities() == {}
    assert "start containerd" in identities.error
    (tmp_path / "none").mkdir()
    assert identities() == {}
    assert identities.error == ""


def test_one_of_the_same_id_that_is_started_again_is_described_again(tmp_path: Path) -> None:
    bundle = task(tmp_path, "aaa", "container")
    identities = ContainerdIdentities(str(tmp_path))
    first = identities()["aaa"]
    assert identities()["aaa"] is first
    shutil.rmtree(bundle)
    again = task(tmp_path, "aaa", "container")
    os.utime(again / "init.pid", (2000, 2000))
    assert identities()["aaa"].started == 2000


def test_the_kubelets_of_two_with_one_id(tmp_path: Path) -> None:
    task(tmp_path, "aaa", "container")
    shutil.copytree(tmp_path / "io.containerd.runtime.v2.task/k8s.io", tmp_path / "io.containerd.runtime.v2.task/other")
    for name in ("k8s.io", "other"):
        os.utime(
            tmp_path / "io.containerd.runtime.v2.task" / name / "aaa/init.pid", (1, 1) if name == "other" else (2, 2)
        )
    assert ContainerdIdentities(str(tmp_path))()["aaa"].started == 2
