"""Both daemons' doors: what they accept, and what they say to what they do not."""

from pathlib import Path

import pytest

from controllers import config as controllers
from controllers.daemon import root_ca
from kube.errors import UsageError
from scheduler import config as scheduler


def test_the_scheduler_reads_upstreams_kind(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text(
        """apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/scheduler.conf}
leaderElection: {leaderElect: false, leaseDuration: 30s}
"""
    )
    found = scheduler.load(["--config", str(file), "--secure-port", "1234"])
    assert found.client_connection.kubeconfig == "/etc/kubernetes/scheduler.conf"
    assert (found.leader_election.leader_elect, found.leader_election.lease_duration) == (False, 30.0)
    assert (found.secure_port, found.bind_address) == (1234, "0.0.0.0")


def test_a_key_that_is_not_honoured_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.yaml"
    file.write_text("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nparallelism: 4\n")
    with pytest.raises(UsageError, match="parallelism: unknown key"):
        scheduler.load(["--config", str(file)])


def test_the_controllers_flags_are_upstreams() -> None:
    flags = ["--kubeconfig", "k", "--cluster-cidr", "10.1.0.0/16,fd00::/48", "--node-monitor-grace-period", "12s"]
    found = controllers.load(
        [*flags, "--allocate-node-cidrs=false", "--leader-elect=false", "--root-ca-file", "ca.crt"]
    )
    assert found.cluster_cidr == ("10.1.0.0/16", "fd00::/48")
    assert (found.node_monitor_grace_period, found.allocate_node_cidrs) == (12.0, False)
    with pytest.raises(UsageError, match="--kubeconfig or the key kubeconfig is required"):
        controllers.load([])


def test_a_root_ca_must_be_one(tmp_path: Path) -> None:
    assert root_ca("") == ""
    with pytest.raises(UsageError, match="name a readable PEM file"):
        root_ca(str(tmp_path / "none"))
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(UsageError, match="there is no certificate in it"):
        root_ca(str(tmp_path / "empty"))
