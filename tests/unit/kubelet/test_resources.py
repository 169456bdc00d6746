import msgspec
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


def test_a_sidecar_is_not_killed_before_those_it_serves() -> None:
    memory = 8 * 2**30
    main = container("a", requests={"memory": "4Gi"})
    sidecar = msgspec.structs.replace(container("s", requests={"memory": "1Mi"}), restart_policy="Always")
    subject = pod(main, init=(sidecar,))
    assert resources.oom_score_adj(subject, sidecar, memory) == resources.oom_score_adj(subject, main, memory) == 500


def test_only_what_the_node_cannot_do_without_is_never_killed() -> None:
    for name, score in (("system-node-critical", -997), ("system-cluster-critical", 1000)):
        spec = PodSpec(containers=(container(),), priority=2_000_001_000, priority_class_name=name)
        assert resources.oom_score_adj(Pod(spec=spec), container(), 2**30) == score


def test_the_pod_s_own_word_goes_before_its_containers_sum() -> None:
    own = ResourceRequirements(limits={"cpu": "2", "memory": "1Gi"}, requests={"cpu": "1"})
    subject = Pod(spec=PodSpec(containers=(container("a", requests={"cpu": "100m"}), container("b")), resources=own))
    assert resources.qos_class(subject) == "Burstable"
    limits = resources.pod_limits(subject)
    assert (limits.cpu_shares, limits.cpu_quota_us, limits.memory_bytes) == (1024, 200_000, 2**30)
    both = ResourceRequirements(limits={"cpu": "2", "memory": "1Gi"})
    guaranteed = msgspec.structs.replace(subject, spec=msgspec.structs.replace(subject.spec, resources=both))
    assert resources.qos_class(guaranteed) == "Guaranteed"
    # what it asks for beyond its containers is shared among them
    half = ResourceRequirements(requests={"memory": "4Gi"})
    shared = Pod(spec=PodSpec(containers=(container("a"), container("b")), resources=half))
    assert resources.oom_score_adj(shared, container("a"), 8 * 2**30) == 750


def test_what_the_node_holds_all_pods_to() -> None:
    subject = pod(container("a", FULL))
    held = resources.Policy(pids=100, period=50_000)
    limits, one = (
        resources.pod_limits(subject, held),
        resources.container_resources(subject, container("a", FULL), 1, held),
    )
    assert (limits.pids, limits.cpu_quota_us, limits.cpu_period_us) == (100, 25_000, 50_000)
    assert (one.cpu_quota, one.cpu_period) == (25_000, 50_000)
    assert resources.pod_limits(pod(container()), held).pids == 100
    free = resources.Policy(quota=False)
    assert resources.pod_limits(subject, free).cpu_quota_us is None
    assert resources.container_resources(subject, container("a", FULL), 1, free).cpu_quota == 0


def test_huge_pages_go_by_the_kernel_s_names() -> None:
    one = container("a", {"hugepages-2Mi": "4Mi", "cpu": "1"})
    assert resources.container_resources(pod(one), one, 1).hugepage_limits == (("2MB", 4 << 20),)


def test_where_pods_live() -> None:
    assert resources.pod_cgroup("/", pod(container())) == "/kubepods/besteffort/podu1"
    assert resources.pod_cgroup("/wherry/lab/n1", pod(container(limits=FULL))) == "/wherry/lab/n1/kubepods/podu1"


def test_what_a_sandbox_is_made_for() -> None:
    """All containers together, and the overhead apart from them."""
    whole, overhead = resources.sandbox_resources(pod(container(limits=FULL), container("d", limits=FULL)))
    assert (whole.cpu_shares, whole.cpu_quota, whole.memory_limit) == (1024, 100_000, 128 << 20)
    assert overhead is None
    subject = msgspec.structs.replace(pod(container()), spec=PodSpec(overhead={"cpu": "250m", "memory": "1Mi"}))
    whole, overhead = resources.sandbox_resources(subject)
    assert (whole.cpu_quota, whole.memory_limit) == (0, 0)
    assert overhead is not None
    assert (overhead.cpu_shares, overhead.cpu_quota, overhead.memory_limit) == (256, 25_000, 1 << 20)
