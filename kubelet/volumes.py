"""A pod's volumes on disk: what goes into them (pure), and putting it there.

    <root>/pods/<uid>/volumes/kubernetes.io~<plugin>/<name>

ConfigMap, Secret, downward API and projected volumes are payloads of small files, written by `kubelet.atomic`; secrets and
tokens live on tmpfs so that they never touch a disk. emptyDir is a directory or a tmpfs, hostPath only a path that is checked.
Setting up again is how updates arrive: an equal payload writes nothing.

Raises MountFailed when a volume cannot be had yet (told as FailedMount, tried again) and Invalid when it never can.
"""

import base64
import logging
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kube import quantity
from kube.core import ConfigMap, Secret
from kube.errors import Invalid
from kube.pods import Container, Pod
from kube.sources import (
    DownwardAPIVolumeFile,
    EmptyDirVolumeSource,
    HostPathVolumeSource,
    KeyToPath,
    ServiceAccountTokenProjection,
    Volume,
)
from kubelet import atomic, tokens
from kubelet.atomic import File
from kubelet.environment import Surroundings, field_value, resource_value
from linux import mounts

log = logging.getLogger(__name__)

OURS = ("empty-dir", "configmap", "secret", "downward-api", "projected")


class MountFailed(Exception):
    """The volume cannot be set up for now; the message is upstream's."""


def pod_directory(root: str, uid: str) -> Path:
    return Path(root, "pods", uid)


def volume_path(root: str, uid: str, plugin: str, name: str) -> Path:
    return pod_directory(root, uid) / "volumes" / f"kubernetes.io~{plugin}" / name


@dataclass(frozen=True, slots=True)
class References:
    """Names of the ConfigMaps and Secrets a pod needs, in its own namespace."""

    config_maps: frozenset[str]
    secrets: frozenset[str]


def references(pod: Pod) -> References:
    """Everything."""
    started, config_maps, secrets = references_of_containers(pod), set[str](), set[str]()
    for volume in pod.spec.volumes:
        if volume.config_map is not None:
            config_maps.add(volume.config_map.name)
        if volume.secret is not None:
            secrets.add(volume.secret.secret_name)
        for source in volume.projected.sources if volume.projected else ():
            if source.config_map is not None:
                config_maps.add(source.config_map.name)
            if source.secret is not None:
                secrets.add(source.secret.name)
    return References(started.config_maps | (config_maps - {""}), started.secrets | (secrets - {""}))


def references_of_containers(pod: Pod) -> References:
    """What a container needs that is started in volumes which are there: variables, and leave to pull."""
    config_maps: set[str] = set()
    secrets: set[str] = {reference.name for reference in pod.spec.image_pull_secrets}
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        for origin in container.env_from:
            if origin.config_map_ref is not None:
                config_maps.add(origin.config_map_ref.name)
            if origin.secret_ref is not None:
                secrets.add(origin.secret_ref.name)
        for variable in container.env:
            if variable.value_from and variable.value_from.config_map_key_ref:
                config_maps.add(variable.value_from.config_map_key_ref.name)
            if variable.value_from and variable.value_from.secret_key_ref:
                secrets.add(variable.value_from.secret_key_ref.name)
    return References(frozenset(config_maps - {""}), frozenset(secrets - {""}))


# --- payloads ---------------------------------------------------------------------------------------------------------


def _chosen(
    kind: str, name: str, keys: Mapping[str, bytes], items: Sequence[KeyToPath], mode: int, optional: bool
) -> dict[str, File]:
    if not items:
        return {key: File(data, mode) for key, data in keys.items()}
    chosen: dict[str, File] = {}
    for item in items:
        if item.key not in keys:
            if optional:
                continue
            raise MountFailed(f'{kind} "{name}" references non-existent key: {item.key}')
        chosen[atomic.checked(item.path)] = File(keys[item.key], mode if item.mode is None else item.mode)
    return chosen


def _config_map(
    name: str, around: Surroundings, items: Sequence[KeyToPath], mode: int, optional: bool | None
) -> dict[str, File]:
    found: ConfigMap | None = around.config_maps.get(name)
    if found is None:
        if optional:
            return {}
        raise MountFailed(f'configmap "{name}" not found')
    keys = {key: text.encode() for key, text in found.data.items()}
    keys |= _decoded("configmap", name, found.binary_data)
    return _chosen("configmap", name, keys, items, mode, bool(optional))


def _secret(
    name: str, around: Surroundings, items: Sequence[KeyToPath], mode: int, optional: bool | None
) -> dict[str, File]:
    found: Secret | None = around.secrets.get(name)
    if found is None:
        if optional:
            return {}
        raise MountFailed(f'secret "{name}" not found')
    return _chosen("secret", name, _decoded("secret", name, found.data), items, mode, bool(optional))


def _decoded(kind: str, name: str, data: Mapping[str, str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for key, text in data.items():
        try:
            found[key] = base64.b64decode(text)
        except ValueError:
            raise MountFailed(f'{kind} "{name}": key {key} is not base64') from None
    return found


def _downward(pod: Pod, files: Iterable[DownwardAPIVolumeFile], around: Surroundings, mode: int) -> dict[str, File]:
    payload: dict[str, File] = {}
    for file in files:
        if file.field_ref is not None:
            text = field_value(pod, file.field_ref.field_path, around.host_ips, around.pod_ips)
        elif file.resource_field_ref is not None:
            name = file.resource_field_ref.container_name
            everyone = (*pod.spec.containers, *pod.spec.init_containers)
            owner = next((c for c in everyone if c.name == name), Container())
            text = resource_value(pod, owner, file.resource_field_ref, around.allocatable)
        else:
            raise Invalid(f"downward API item {file.path!r} has neither fieldRef nor resourceFieldRef")
        payload[atomic.checked(file.path)] = File(text.encode(), mode if file.mode is None else file.mode)
    return payload


def payload(pod: Pod, volume: Volume, around: Surroundings) -> dict[str, File]:
    """The files of a ConfigMap, Secret, downward API or projected volume."""
    if volume.config_map is not None:
        config = volume.config_map
        return _config_map(config.name, around, config.items, _mode(config.default_mode), config.optional)
    if volume.secret is not None:
        secret = volume.secret
        return _secret(secret.secret_name, around, secret.items, _mode(secret.default_mode), secret.optional)
    if volume.downward_api is not None:
        return _downward(pod, volume.downward_api.items, around, _mode(volume.downward_api.default_mode))
    assert volume.projected is not None
    mode = _mode(volume.projected.default_mode)
    files: dict[str, File] = {}
    for source in volume.projected.sources:
        if source.config_map is not None:
            files |= _config_map(
                source.config_map.name, around, source.config_map.items, mode, source.config_map.optional
            )
        elif source.secret is not None:
            files |= _secret(source.secret.name, around, source.secret.items, mode, source.secret.optional)
        elif source.downward_api is not None:
            files |= _downward(pod, source.downward_api.items, around, mode)
        elif source.service_account_token is not None:
            files |= _token(pod, source.service_account_token, around, mode)
        else:
            raise Invalid(
                f"volume {volume.name!r}: this kubelet projects configMap, secret, downwardAPI and serviceAccountToken"
            )
    return files


def _token(pod: Pod, source: ServiceAccountTokenProjection, around: Surroundings, mode: int) -> dict[str, File]:
    token = around.tokens.get(tokens.wish_of(source))
    match token:
        case str():
            owner = common_user(pod)
            group = pod.spec.security_context.fs_group if pod.spec.security_context else None
            # A token is for its reader alone where the reader is known (pkg/volume/projected); fsGroup makes it 0640.
            private = owner is not None or group is not None
            return {atomic.checked(source.path): File(token.encode(), 0o600 if private else mode, owner)}
        case tokens.Refused(words):
            raise MountFailed(words)
        case None:
            raise MountFailed("failed to fetch token: it has not been asked for yet")


def common_user(pod: Pod) -> int | None:
    """The user all containers run as, if each says so, by itself or through the pod, and they agree."""
    whole = pod.spec.security_context.run_as_user if pod.spec.security_context else None
    found: set[int | None] = set()
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        own = container.security_context.run_as_user if container.security_context else None
        found.add(whole if own is None else own)
    return found.pop() if len(found) == 1 else None


def _mode(default: int | None) -> int:
    return 0o644 if default is None else default


# --- setting up -------------------------------------------------------------------------------------------------------


def plugin_of(volume: Volume) -> str:
    if volume.empty_dir is not None:
        return "empty-dir"
    if volume.config_map is not None:
        return "configmap"
    if volume.secret is not None:
        return "secret"
    if volume.downward_api is not None:
        return "downward-api"
    if volume.projected is not None:
        return "projected"
    if volume.host_path is not None:
        return "host-path"
    raise Invalid(
        f"volume {volume.name!r}: this kubelet mounts emptyDir, hostPath, configMap, secret, downwardAPI and projected"
    )


def set_up(root: str, pod: Pod, volume: Volume, around: Surroundings) -> str:
    """Make the volume be there and up to date; its path on the node. Blocks: call it in the volumes' thread pool."""
    try:
        return _set_up(root, pod, volume, around)
    except (ValueError, OverflowError) as error:
        # No mode, no group, no quantity, no name of a file: the API that let it pass checks less than upstream's.
        raise Invalid(f"volume {volume.name!r}: {error}") from error


def _set_up(root: str, pod: Pod, volume: Volume, around: Surroundings) -> str:
    plugin = plugin_of(volume)
    if volume.host_path is not None:
        return _host_path(volume.host_path)
    place = volume_path(root, pod.metadata.uid, plugin, volume.name)
    group = pod.spec.security_context.fs_group if pod.spec.security_context else None
    if volume.empty_dir is not None:
        _empty_dir(place, volume.empty_dir, pod, group)
        return str(place)
    try:
        files = payload(pod, volume, around)  # before the directory: a volume that cannot be had leaves nothing behind
    except MountFailed as error:
        if atomic.current(place) is None:
            raise
        # It was there once: what runs goes on with what it has, as upstream has it.
        log.warning("pod %s: volume %s keeps its old content: %s", pod.metadata.key, volume.name, error)
        return str(place)
    place.mkdir(parents=True, exist_ok=True)
    if plugin in ("secret", "projected") and mounts.mounted_at(str(place)) is None:
        mounts.tmpfs(str(place), mode=0o755, executable=False)
    place.chmod(0o2755 if group is not None else 0o755)
    if group is not None:
        os.chown(place, -1, group)
        files = {path: File(file.data, file.mode | 0o440, file.uid) for path, file in files.items()}
    atomic.write(place, files, gid=group)
    return str(place)


def standing(root: str, pod: Pod) -> dict[str, str] | None:
    """The paths of the pod's volumes, if an earlier pass has set up all of them; their content is what it was then."""
    found: dict[str, str] = {}
    for volume in pod.spec.volumes:
        if volume.host_path is not None:
            found[volume.name] = _host_path(volume.host_path)
            continue
        place = volume_path(root, pod.metadata.uid, plugin_of(volume), volume.name)
        if not place.is_dir() or (volume.empty_dir is None and atomic.current(place) is None):
            return None
        found[volume.name] = str(place)
    return found


def _empty_dir(place: Path, source: EmptyDirVolumeSource, pod: Pod, group: int | None) -> None:
    # 0777 whatever the umask says: containers run as anybody.
    place.mkdir(parents=True, exist_ok=True)
    if source.medium == "Memory":
        if mounts.mounted_at(str(place)) is None:
            sizes = [quantity.integer(source.size_limit)] if source.size_limit else []
            limits = [c.resources.limits.get("memory") for c in pod.spec.containers]
            if limits and all(limits):
                sizes.append(sum(quantity.integer(limit) for limit in limits if limit))
            mounts.tmpfs(str(place), size_bytes=min(sizes) if sizes else None)
    elif source.medium:
        raise Invalid(f'emptyDir.medium {source.medium!r} is not supported: use "" or "Memory"')
    if stat.S_IMODE(place.stat().st_mode) & 0o777 != 0o777:
        place.chmod(0o777)
    if group is not None and place.stat().st_gid != group:
        os.chown(place, -1, group)
        place.chmod(0o2777)


_TYPES = {
    "Directory": ("directory", stat.S_ISDIR),
    "File": ("file", stat.S_ISREG),
    "Socket": ("socket", stat.S_ISSOCK),
    "CharDevice": ("character device", stat.S_ISCHR),
    "BlockDevice": ("block device", stat.S_ISBLK),
}


def _host_path(source: HostPathVolumeSource) -> str:
    kind, path = source.type or "", Path(source.path)
    if ".." in path.parts:
        raise Invalid(f"hostPath.path {source.path!r} may not contain '..'")
    if "\0" in source.path:  # which upstream's API lets pass
        raise Invalid(f"hostPath.path {source.path!r} may not contain a zero byte")
    # Without a type nothing is checked, and runtimes have always made a directory of what is missing.
    if kind in ("", "DirectoryOrCreate") and not path.exists():
        path.mkdir(parents=True, mode=0o755)
    if kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    word, check = _TYPES.get(kind.removesuffix("OrCreate"), ("", None))
    if check is not None:
        try:
            fits = check(path.stat().st_mode)
        except OSError as error:
            raise MountFailed(f"hostPath type check failed: {source.path} is not a {word}") from error
        if not fits:
            raise MountFailed(f"hostPath type check failed: {source.path} is not a {word}")
    elif kind:
        raise Invalid(f"hostPath.type {kind!r} is not one of DirectoryOrCreate, Directory, FileOrCreate, File, ...")
    return str(path)


def tear_down(root: str, uid: str) -> None:
    """Take the pod's mounts off and delete its directory. Raises StillMounted when somebody else's mount is in it."""
    directory = pod_directory(root, uid)
    if not directory.exists():
        return
    own = {f"{directory}/volumes/kubernetes.io~{plugin}/" for plugin in OURS}
    top = os.path.realpath(directory)
    for mount in mounts.below(str(directory)):
        relative = str(directory) + mount.point[len(top) :]
        if mount.kind == "tmpfs" and any(relative.startswith(prefix) for prefix in own):
            mounts.unmount(mount.point)
    mounts.remove_tree(str(directory))
