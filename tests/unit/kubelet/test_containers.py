import pytest

from kube.errors import Invalid
from kube.meta import ObjectMeta
from kube.pods import (
    Capabilities,
    Container,
    Pod,
    PodSecurityContext,
    PodSpec,
    SeccompProfile,
    SecurityContext,
    VolumeMount,
)
from kube.sources import EmptyDirVolumeSource, Volume
from kubelet import containers
from kubelet.containers import Furniture
from kubelet.model import StartContainer
from kubelet.resources import Policy
from kubelet.runtime import ContainerConfig, Image

FURNITURE = Furniture(
    volumes={"v": "/host/v"},
    hosts="/k/hosts",
    resolver="/k/resolv",
    hostname="/k/name",
    termination="/k/t",
    memory=1 << 33,
)


def configured(container: Container, *, image: Image = Image(id="sha256:1"), **spec: object) -> ContainerConfig:  # noqa: B008
    volumes = (Volume(name="v", empty_dir=EmptyDirVolumeSource()),)
    pod = Pod(metadata=ObjectMeta(name="p", namespace="d", uid="u"), spec=PodSpec(volumes=volumes, **spec))  # type: ignore[arg-type]
    return containers.container_config(pod, StartContainer(container, "s", 2), image, {"A": "1"}, FURNITURE)


def test_identity_log_and_furniture() -> None:
    config = configured(Container(name="a", args=("$(A)",)))
    assert (config.attempt, config.log_path, config.args) == (2, "a/2.log", ("1",))
    assert {m.container_path: m.host_path for m in config.mounts} == {
        "/etc/hosts": "/k/hosts",
        "/etc/resolv.conf": "/k/resolv",
        "/etc/hostname": "/k/name",
        "/dev/termination-log": "/k/t",
    }


def test_a_container_that_mounts_etc_hosts_itself_gets_its_own() -> None:
    mount = VolumeMount(name="v", mount_path="/etc/hosts")
    config = configured(Container(name="a", volume_mounts=(mount,)))
    assert [m.host_path for m in config.mounts if m.container_path == "/etc/hosts"] == ["/host/v"]


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (VolumeMount(name="w", mount_path="/x"), "not among the pod's volumes"),
        (VolumeMount(name="v", mount_path="/x", mount_propagation="Bidirectional"), "privileged"),
    ],
)
def test_mounts_that_cannot_be(mount: VolumeMount, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        configured(Container(name="a", volume_mounts=(mount,)))


def test_the_containers_security_context_wins_over_the_pods() -> None:
    whole = PodSecurityContext(run_as_user=1, run_as_group=2, supplemental_groups=(5,), fs_group=6)
    own = SecurityContext(
        run_as_user=3,
        allow_privilege_escalation=False,
        read_only_root_filesystem=True,
        capabilities=Capabilities(add=("CAP_NET_ADMIN",), drop=("ALL",)),
        seccomp_profile=SeccompProfile(type="RuntimeDefault"),
    )
    found = configured(Container(name="a", security_context=own), security_context=whole).security
    assert (found.run_as_user, found.run_as_group, found.supplemental_groups) == ("3", 2, (5, 6))
    assert (found.no_new_privileges, found.read_only_root, found.seccomp) == (True, True, "RuntimeDefault")
    assert (found.add_capabilities, found.drop_capabilities) == (("NET_ADMIN",), ("ALL",))


@pytest.mark.parametrize(
    ("user", "image_user", "words"),
    [
        (0, "", "runAsUser breaks non-root policy"),
        (None, "", "image will run as root"),
        (None, "0:0", "image will run as root"),
        (None, "nobody", r"non-numeric user \(nobody\)"),
        (None, "\u00b2", "non-numeric user"),
        (None, "1000:1000", ""),
        (7, "", ""),
    ],
)
def test_run_as_non_root(user: int | None, image_user: str, words: str) -> None:
    context = SecurityContext(run_as_non_root=True, run_as_user=user)
    container = Container(name="a", security_context=context)
    if words:
        with pytest.raises(Invalid, match=words):
            configured(container, image=Image(id="i", user=image_user))
    else:
        configured(container, image=Image(id="i", user=image_user))


@pytest.mark.parametrize(
    ("profile", "confined", "seccomp"),
    [
        (None, False, "Unconfined"),
        (None, True, "RuntimeDefault"),
        (SeccompProfile(type="Unconfined"), True, "Unconfined"),
        (SeccompProfile(type="RuntimeDefault"), False, "RuntimeDefault"),
    ],
)
def test_seccomp_default_is_for_those_who_name_none(
    profile: SeccompProfile | None, confined: bool, seccomp: str
) -> None:
    pod = Pod(spec=PodSpec(security_context=PodSecurityContext(seccomp_profile=profile)))
    found = containers.security(pod, Container(name="a"), Image(id="i"), Policy(seccomp=confined))
    assert found.seccomp == seccomp


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("audit.json", "/k/seccomp/audit.json"),
        ("team/a.json", "/k/seccomp/team/a.json"),
        ("", ""),
        ("../x", ""),
        ("/x", ""),
    ],
)
def test_a_local_seccomp_profile_is_a_file_below_the_kubelets_directory(name: str, path: str) -> None:
    profile = SeccompProfile(type="Localhost", localhost_profile=name)
    pod = Pod(spec=PodSpec(security_context=PodSecurityContext(seccomp_profile=profile)))
    policy = Policy(profiles="/k/seccomp")
    if path:
        assert containers.security(pod, Container(name="a"), Image(id="i"), policy).seccomp == path
        return
    with pytest.raises(Invalid, match="name a file below /k/seccomp"):
        containers.security(pod, Container(name="a"), Image(id="i"), policy)
