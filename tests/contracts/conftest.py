"""What the contracts share: one dockerd for all of them."""

from tests.dockerd import cgroup_parent, dockerd  # noqa: F401
