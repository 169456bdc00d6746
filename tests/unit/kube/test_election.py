import os
import subprocess

import pytest

from kube.election import Terms, identity, is_dead
from kube.errors import UsageError


def test_a_process_that_can_be_seen_is_alive() -> None:
    assert not is_dead(identity())


def test_a_process_that_is_gone_or_another_one_is_dead() -> None:
    host, boot, namespace, pid, started = identity().rsplit("_", 4)
    child = subprocess.Popen(["true"])
    child.wait()
    assert is_dead(f"{host}_{boot}_{namespace}_{child.pid}_{started}")
    assert is_dead(f"{host}_{boot}_{namespace}_{pid}_{int(started) - 1}"), "the pid was used again"


@pytest.mark.parametrize("holder", ["", "somebody", "node1_6f1c9a2e-0d7b-4c0a-9d43-3f2b6f6ce1aa"])
def test_of_anybody_else_nothing_is_known(holder: str) -> None:
    assert not is_dead(holder)


def test_a_process_of_another_boot_or_pid_namespace_is_not_judged() -> None:
    host, boot, namespace, _, started = identity().rsplit("_", 4)
    assert not is_dead(f"{host}_{boot}_{namespace}0_{os.getpid()}_{int(started) + 1}")
    assert not is_dead(f"{host}_00000000-{boot}_{namespace}_{os.getpid()}_1")


def test_terms_that_cannot_work_are_refused() -> None:
    with pytest.raises(UsageError, match="--leader-elect-renew-deadline"):
        Terms(lease_duration=10, renew_deadline=15)
