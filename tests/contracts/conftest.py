"""What the contracts share: one dockerd and one containerd for all of them."""

from tests.containerd import containerd  # noqa: F401
from tests.dockerd import cgroup_parent, dockerd  # noqa: F401
