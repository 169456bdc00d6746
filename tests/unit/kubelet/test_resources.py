import pytest

from kube.meta import ObjectMeta
from kube.pods import Container, Pod, PodSpec, ResourceRequirements
from kubelet import resources


def container(
    name: str = "c", limits: dict[str, str] | None = None, requests: dict[str, str] | None = None
) -> Container:
    return Container(name=name, resources=ResourceRequirements(limits=limits or {}, requests=requests or {}))


def pod(*containers: Container, init: tuple[Container, ...] = ()) -> Pod:
    return Pod(metadata=ObjectMeta(uid="u1"), spec=PodSpec(containers=containers, init_containers=init))


FULL = {"cpu": "500m", "memory": "64Mi"}


@pytest.mark.parametrize(
    ("subject", "wanted"),
    [
        (pod(container()), "BestEffort"),
        (pod(container(limits={"cpu": "0"})), "BestEffort"),
        (pod(container(requests={"cpu": "1m"})), "Burstable"),
        (pod(container(limits={"cpu": "1"})), "Burstable"),
        (pod(container(limits=FULL)), "Guaranteed"),
        (pod(container(limits=FULL, requests=FULL)), "Guaranteed"),
        (pod(container(limits=FULL, requests={"cpu": "100m"})), "Burstable"),
        (pod(container(limits=FULL), container("d")), "Burstable"),
        (pod(container(limits=FULL), init=(container("i"),)), "Burstable"),
        (pod(container(limits={"ephemeral-storage": "1Gi"})), "BestEffort"),
    ],
)
def test_qos_class(subject: Pod, wanted: str) -> None:
    assert resources.qos_class(subject) == wanted


def test_kernel_units() -> None:
    assert resources.shares(500) == 512
    assert resources.shares(0) == 2
    assert resources.shares(10**9) == 262144
    assert resources.quota(500) == 50_000
    assert resources.quota(1) == 1000
    assert resources.quota(0) == 0


def test_pod_limits_count_only_when_every_container_has_one() -> None:
    both = resources.pod_limits(pod(container("a", FULL), container("b", FULL)))
    assert (both.cpu_shares, both.cpu_quota_us, both.memory_bytes) == (1024, 100_000, 128 * 2**20)
    one = resources.pod_limits(pod(container("a", FULL), container("b")))
    assert (one.cpu_shares, one.cpu_quota_us, one.memory_bytes) == (512, None, None)


def test_a_large_init_container_counts_instead_of_the_sum() -> None:
    subject = pod(container("a", FULL), init=(container("i", {"cpu": "2", "memory": "32Mi"}),))
    assert resources.pod_requests(subject) == {"cpu": 2000, "memory": 64 * 2**20}


def test_oom_scores() -> None:
    memory = 8 * 2**30
    assert resources.oom_score_adj(pod(container()), container(), memory) == 1000
    assert resources.oom_score_adj(pod(container(limits=FULL)), container(limits=FULL), memory) == -997
    half = container(requests={"memory": "4Gi"})
    assert resources.oom_score_adj(pod(half), half, memory) == 500
    tiny = container(requests={"cpu": "1m"})
    assert resources.oom_score_adj(pod(tiny), tiny, memory) == 999


def test_where_pods_live() -> None:
    assert resources.pod_cgroup("/", pod(container())) == "/kubepods/besteffort/podu1"
    assert resources.pod_cgroup("/wherry/lab/n1", pod(container(limits=FULL))) == "/wherry/lab/n1/kubepods/podu1"
