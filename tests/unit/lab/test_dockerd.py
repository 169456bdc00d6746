"""Where a lab's own dockerd may be."""

import pytest

from kube.errors import UsageError
from lab import dockerd


def test_a_path_too_deep_for_its_sockets_is_refused_in_words() -> None:
    fits = "/" + "s" * (107 - len("/docker/exec/containerd/containerd.sock.ttrpc") - 1)
    assert dockerd.placed(fits) == f"unix://{fits}/docker.sock"
    with pytest.raises(UsageError, match="--state-dir"):
        dockerd.placed(fits + "s")


def test_what_is_there_can_be_named_however_deep() -> None:
    assert dockerd.own_endpoint("/" + "s" * 200).endswith("/docker.sock")
