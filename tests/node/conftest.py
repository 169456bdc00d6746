"""Every test of this tier touches the machine, so every test proves that it left no trace."""

import pytest

from tests.dockerd import cgroup_parent, dockerd  # noqa: F401 (one dockerd for the whole tier)
from tests.leave_no_trace import Snapshot


@pytest.fixture(autouse=True)
def _leaves_no_trace(leave_no_trace: Snapshot) -> None:
    return
