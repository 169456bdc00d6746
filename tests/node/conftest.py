"""Every test of this tier touches the machine, so every test proves that it left no trace."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dockerd import cgroup_parent, dockerd  # noqa: F401 (one dockerd for the whole tier)
from tests.leave_no_trace import Snapshot
from tests.node import proxy_world
from tests.node.service_world import Make, built
from tests.requirements import requires


@pytest.fixture(autouse=True)
def _leaves_no_trace(_tiers_dockerd: None, leave_no_trace: Snapshot) -> None:
    return


@pytest.fixture
def _tiers_dockerd(request: pytest.FixtureRequest) -> None:
    """A test that runs on it may be the first, and it outlives the test: it begins before the machine is looked at."""
    call = getattr(request.node, "callspec", None)
    if call is not None and call.params.get("run") == "docker":
        request.getfixturevalue("dockerd")


@pytest.fixture
def cluster(
    request: pytest.FixtureRequest, netns: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[proxy_world.Cluster]:
    """A node, its neighbours and an API server; the proxy is the test's to start. The parameter is the family."""
    requires("netns", "iptables-nft-restore", "iptables-legacy-restore", "nft")
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "xtables.lock"))
    with built(netns) as world, proxy_world.running(world, tmp_path, getattr(request, "param", 4)) as made:
        yield made
