"""Every test of this tier touches the machine, so every test proves that it left no trace."""

import pytest

from tests.dockerd import cgroup_parent, dockerd  # noqa: F401 (one dockerd for the whole tier)
from tests.leave_no_trace import Snapshot


@pytest.fixture(autouse=True)
def _leaves_no_trace(_tiers_dockerd: None, leave_no_trace: Snapshot) -> None:
    return


@pytest.fixture
def _tiers_dockerd(request: pytest.FixtureRequest) -> None:
    """A test that runs on it may be the first, and it outlives the test: it begins before the machine is looked at."""
    call = getattr(request.node, "callspec", None)
    if call is not None and call.params.get("run") == "docker":
        request.getfixturevalue("dockerd")
