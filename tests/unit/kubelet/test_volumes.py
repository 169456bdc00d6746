import base64
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kube.core import ConfigMap, Secret
from kube.errors import Invalid
from kube.meta import ObjectMeta
from kube.pods import Container, Pod, PodSecurityContext, PodSpec, SecurityContext
from kube.sources import (
    ConfigMapProjection,
    ConfigMapVolumeSource,
    DownwardAPIVolumeFile,
    DownwardAPIVolumeSource,
    EmptyDirVolumeSource,
    EnvFromSource,
    EnvSource,
    EnvVar,
    EnvVarSource,
    HostPathVolumeSource,
    KeySelector,
    KeyToPath,
    ObjectFieldSelector,
    ProjectedVolumeSource,
    SecretVolumeSource,
    ServiceAccountTokenProjection,
    Volume,
    VolumeProjection,
)
from kubelet import volumes
from kubelet.atomic import File
from kubelet.environment import Surroundings
from kubelet.tokens import Refused, Wish
from kubelet.volumes import MountFailed

POD = Pod(metadata=ObjectMeta(name="p", namespace="ns", uid="u1", labels={"a": "1"}))
AROUND = Surroundings(
    config_maps={"cm": ConfigMap(data={"k": "v"}, binary_data={"b": base64.b64encode(b"\0\xff").decode()})},
    secrets={"s": Secret(data={"pw": base64.b64encode(b"geheim").decode()})},
)


def payload(**source: object) -> dict[str, File]:
    return volumes.payload(POD, Volume(name="v", **source), AROUND)  # type: ignore[arg-type]


def test_config_map() -> None:
    assert payload(config_map=ConfigMapVolumeSource(name="cm", default_mode=0o400)) == {
        "k": File(b"v", 0o400),
        "b": File(b"\0\xff", 0o400),
    }


@pytest.mark.parametrize(
    "source",
    [
        {"host_path": HostPathVolumeSource(path="/tmp/a\0b")},
        {"config_map": ConfigMapVolumeSource(name="cm", items=(KeyToPath(key="k", path="a\0b"),))},
        {"config_map": ConfigMapVolumeSource(name="cm", default_mode=1 << 40)},
        {"config_map": ConfigMapVolumeSource(name="cm", default_mode=-1 << 40)},
        {"empty_dir": EmptyDirVolumeSource(medium="Memory", size_limit="foo")},
    ],
)
def test_what_no_file_can_be_is_refused(tmp_path: Path, source: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        volumes.set_up(str(tmp_path), POD, Volume(name="v", **source), AROUND)  # type: ignore[arg-type]


def test_a_group_that_cannot_be_is_refused(tmp_path: Path) -> None:
    pod = msgspec.structs.replace(POD, spec=PodSpec(security_context=PodSecurityContext(fs_group=1 << 40)))
    with pytest.raises(Invalid, match="volume 'v'"):
        volumes.set_up(str(tmp_path), pod, Volume(name="v", empty_dir=EmptyDirVolumeSource()), AROUND)


def test_what_is_no_base64_is_waited_for() -> None:
    around = replace(
        AROUND, secrets={"s": Secret(data={"pw": "abc"})}, config_maps={"cm": ConfigMap(binary_data={"b": "a"})}
    )
    for source in (
        Volume(secret=SecretVolumeSource(secret_name="s")),
        Volume(config_map=ConfigMapVolumeSource(name="cm")),
    ):
        with pytest.raises(MountFailed, match="is not base64"):
            volumes.payload(POD, source, around)


def test_items_choose_rename_and_set_modes() -> None:
    items = (KeyToPath(key="pw", path="deep/password", mode=0o600),)
    assert payload(secret=SecretVolumeSource(secret_name="s", items=items)) == {"deep/password": File(b"geheim", 0o600)}


def test_what_is_missing() -> None:
    with pytest.raises(MountFailed, match='configmap "no" not found'):
        payload(config_map=ConfigMapVolumeSource(name="no"))
    with pytest.raises(MountFailed, match='secret "s" references non-existent key: x'):
        payload(secret=SecretVolumeSource(secret_name="s", items=(KeyToPath(key="x", path="x"),)))
    assert payload(config_map=ConfigMapVolumeSource(name="no", optional=True)) == {}


def test_an_item_may_not_leave_the_volume() -> None:
    with pytest.raises(Invalid, match=r"\.\."):
        payload(config_map=ConfigMapVolumeSource(name="cm", items=(KeyToPath(key="k", path="../../etc/passwd"),)))


def test_downward_api_and_projected() -> None:
    labels = DownwardAPIVolumeFile(path="labels", field_ref=ObjectFieldSelector(field_path="metadata.labels"))
    found = payload(
        projected=ProjectedVolumeSource(
            sources=(
                VolumeProjection(config_map=ConfigMapProjection(name="cm", items=(KeyToPath(key="k", path="k"),))),
                VolumeProjection(downward_api=DownwardAPIVolumeSource(items=(labels,))),
            )
        )
    )
    assert found == {"k": File(b"v"), "labels": File(b'a="1"')}


TOKEN = VolumeProjection(service_account_token=ServiceAccountTokenProjection(path="token", expiration_seconds=3607))
WITH_TOKEN = replace(AROUND, tokens={Wish("", 3607): "jwt"})


def token_of(default_mode: int | None = None, context: PodSecurityContext | None = None, *users: int | None) -> File:
    containers = tuple(Container(security_context=SecurityContext(run_as_user=user)) for user in users)
    spec = PodSpec(security_context=context, containers=containers)
    volume = Volume(name="v", projected=ProjectedVolumeSource(sources=(TOKEN,), default_mode=default_mode))
    return volumes.payload(Pod(spec=spec), volume, WITH_TOKEN)["token"]


def owned(file: File) -> tuple[int, int | None]:
    return file.mode, file.uid


def test_a_token_is_its_readers_alone_where_the_reader_is_known() -> None:
    assert token_of().data == b"jwt"
    assert owned(token_of()) == (0o644, None)
    assert owned(token_of(0o400)) == (0o400, None)
    assert owned(token_of(0o644, None, 1000, 1000)) == (0o600, 1000)
    assert owned(token_of(0o644, None, 1000, 1001)) == (0o644, None)
    assert owned(token_of(0o644, None, 1000, None)) == (0o644, None)
    assert owned(token_of(0o644, PodSecurityContext(run_as_user=7), None, 7)) == (0o600, 7)
    assert owned(token_of(0o644, PodSecurityContext(fs_group=5), None)) == (0o600, None)  # set_up makes it 0640


def test_a_token_that_cannot_be_had() -> None:
    volume = Volume(name="v", projected=ProjectedVolumeSource(sources=(TOKEN,)))
    refused = replace(AROUND, tokens={Wish("", 3607): Refused("failed to fetch token: busy")})
    with pytest.raises(MountFailed, match=r"^failed to fetch token: busy$"):
        volumes.payload(POD, volume, refused)


def test_what_is_not_there_yet_is_said_in_words() -> None:
    with pytest.raises(Invalid, match="this kubelet projects"):
        payload(projected=ProjectedVolumeSource(sources=(VolumeProjection(),)))
    with pytest.raises(Invalid, match="this kubelet mounts"):
        volumes.plugin_of(Volume(name="v"))


def set_up(root: Path, **source: object) -> Path:
    return Path(volumes.set_up(str(root), POD, Volume(name="v", **source), AROUND))  # type: ignore[arg-type]


def test_empty_dir_is_for_everybody_and_keeps_its_content(tmp_path: Path) -> None:
    place = set_up(tmp_path, empty_dir=EmptyDirVolumeSource())
    assert place == tmp_path / "pods/u1/volumes/kubernetes.io~empty-dir/v"
    assert stat.S_IMODE(place.stat().st_mode) == 0o777
    (place / "data").write_text("x")
    assert (set_up(tmp_path, empty_dir=EmptyDirVolumeSource()) / "data").read_text() == "x"


def test_a_config_map_that_goes_leaves_what_is_mounted(tmp_path: Path) -> None:
    place = set_up(tmp_path, config_map=ConfigMapVolumeSource(name="cm"))
    assert (place / "k").read_text() == "v"
    volume = Volume(name="v", config_map=ConfigMapVolumeSource(name="cm"))
    volumes.set_up(str(tmp_path), POD, volume, Surroundings())
    assert (place / "k").read_text() == "v"


@pytest.mark.parametrize(
    ("kind", "make", "fits"),
    [
        ("Directory", "directory", True),
        ("Directory", "file", False),
        ("Directory", "", False),
        ("DirectoryOrCreate", "", True),
        ("DirectoryOrCreate", "file", False),
        ("File", "file", True),
        ("File", "", False),
        ("FileOrCreate", "", True),
        ("Socket", "file", False),
        ("CharDevice", "file", False),
        ("", "", True),
        ("", "file", True),
    ],
)
def test_host_path_types(tmp_path: Path, kind: str, make: str, fits: bool) -> None:
    path = tmp_path / "thing"
    if make == "directory":
        path.mkdir()
    elif make == "file":
        path.touch()
    source = HostPathVolumeSource(path=str(path), type=kind)
    if fits:
        assert set_up(tmp_path, host_path=source) == path
        assert path.exists()
    else:
        with pytest.raises(MountFailed, match="hostPath type check failed"):
            set_up(tmp_path, host_path=source)


def test_host_path_may_not_climb(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        set_up(tmp_path, host_path=HostPathVolumeSource(path="/a/../etc"))
    with pytest.raises(Invalid, match="type 'Nonsense'"):
        set_up(tmp_path, host_path=HostPathVolumeSource(path=str(tmp_path), type="Nonsense"))


def test_tear_down_removes_the_directory_and_follows_no_link(tmp_path: Path) -> None:
    place = set_up(tmp_path, empty_dir=EmptyDirVolumeSource())
    precious = tmp_path / "precious"
    precious.write_text("x")
    (place / "link").symlink_to(tmp_path)
    volumes.tear_down(str(tmp_path), "u1")
    volumes.tear_down(str(tmp_path), "u1")
    assert not (tmp_path / "pods/u1").exists()
    assert precious.read_text() == "x"


def test_references_are_those_of_volumes_and_environments() -> None:
    key = KeySelector(name="env-cm", key="k")
    container = Container(
        env_from=(EnvFromSource(secret_ref=EnvSource(name="from-s")),),
        env=(EnvVar(name="V", value_from=EnvVarSource(config_map_key_ref=key)),),
    )
    spec = PodSpec(
        containers=(container,),
        volumes=(
            Volume(name="a", config_map=ConfigMapVolumeSource(name="vol-cm")),
            Volume(name="b", secret=SecretVolumeSource(secret_name="vol-s")),
        ),
    )
    found = volumes.references(Pod(spec=spec))
    assert found.config_maps == {"env-cm", "vol-cm"}
    assert found.secrets == {"from-s", "vol-s"}
