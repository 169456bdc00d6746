"""A lab whose API keeps its objects in a real etcd: up, used, its etcd killed, seen with etcdctl, down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import supervisor
from tests.requirements import requires


def wherry(*words: str, check: bool = True, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "wherry", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    assert not check or done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's own, which is too deep for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="lab-") as made:
        yield Path(made)


def test_a_lab_on_etcd(folder: Path) -> None:
    requires("root", "netns", "iptables", "dockerd", "kubectl", "etcd", "etcdctl")
    name = f"t{uuid.uuid4().hex[:5]}"
    base = ["lab", "--name", name, "--state-dir", str(folder)]
    inside = [*base, "shell", "node1", "--"]
    etcd = ["env", "ETCDCTL_API=3", "etcdctl", "--endpoints", "http://127.0.0.1:2379"]
    try:
        wherry(*base, "up", "--nodes", "1", "--no-demo", "--store", "etcd")
        wherry(*base, "kubectl", "create", "configmap", "kept", "--from-literal=a=b")
        keys = wherry(*inside, *etcd, "get", "/registry", "--prefix", "--keys-only").stdout.split()
        assert {"/registry/configmaps/default/kept", "/registry/minions/node1"} <= set(keys)
        value = wherry(*inside, *etcd, "get", "/registry/configmaps/default/kept", "--print-value-only").stdout
        assert json.loads(value)["data"] == {"a": "b"}
        told = supervisor.ask(str(folder / name), {"order": "status"})
        assert told is not None
        os.kill(told["daemons"]["node1/etcd"]["pid"], signal.SIGKILL)  # the supervisor starts it again
        deadline = time.monotonic() + 60
        while wherry(*base, "kubectl", "create", "configmap", "later", check=False).returncode:
            assert time.monotonic() < deadline, "the API server did not come back to etcd"
            time.sleep(0.5)
        listed = wherry(
            *inside, sys.executable, "-m", "wherry", "store", "ls", "/registry/configmaps/default",
            "--etcd-servers", "http://127.0.0.1:2379",
        ).stdout.split()  # fmt: skip
        assert {"/registry/configmaps/default/kept", "/registry/configmaps/default/later"} <= set(listed)
        refused = wherry(*base, "up", "--nodes", "1", "--store", "sqlite", check=False)
        assert refused.returncode == 2
        assert "has its objects in etcd" in refused.stderr
    finally:
        wherry(*base, "down")
    assert not (folder / name).exists()
    assert shutil.which("etcd")
    assert not os.path.exists(f"/run/netns/wherry-{name}-node1")
