"""Registry credentials: whose they are, and which of them belong to an image.

A table of credentials maps places to credentials, as ~/.docker/config.json does:

    registry.example            that registry
    registry.example/team       what is below that path only
    *.example:5000              one label for each star; the port must be the same
    docker.io, index.docker.io  images that name no registry

The place with the longest path that matches comes first; all that match are tried. Tables come from the pod's imagePullSecrets
(kubernetes.io/dockerconfigjson, and the older dockercfg), from credential provider plugins (`kubelet.images.providers`) and from
<root-dir>/config.json. (Upstream: pkg/credentialprovider/keyring.go.)
"""

from __future__ import annotations

import base64
import fnmatch
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from kube.core import Secret
from kube.pods import Pod
from kubelet.runtime import RegistryAuth

log = logging.getLogger(__name__)

Table = Mapping[str, RegistryAuth]  # by place

_DEFAULT: Final = "index.docker.io"
_HUB: Final = "docker.io"


def pull_secrets(pod: Pod, secrets: Mapping[str, Secret], image: str) -> list[RegistryAuth]:
    """The credentials that the pod's imagePullSecrets hold for the image, likeliest first."""
    tables = []
    for reference in pod.spec.image_pull_secrets:
        secret = secrets.get(reference.name)
        if secret is not None:
            tables.append(_of_secret(secret, f"secret {pod.metadata.namespace}/{reference.name}"))
    return matching(tables, image)


def repository(image: str) -> str:
    """The image's name in full, without tag and digest: nginx:1 is docker.io/library/nginx. What credentials are found by."""
    folder, slash, last = image.partition("@")[0].rpartition("/")
    name = folder + slash + last.partition(":")[0]
    first, slash, rest = name.partition("/")
    if not slash or not (any(char in first for char in ".:") or first == "localhost" or first != first.lower()):
        first, rest = _HUB, name
    elif first == _DEFAULT:
        first = _HUB
    return f"{first}/library/{rest}" if first == _HUB and "/" not in rest else f"{first}/{rest}"


def missing_secrets(pod: Pod, secrets: Mapping[str, Secret]) -> list[str]:
    return [each.name for each in pod.spec.image_pull_secrets if each.name not in secrets]


def node_config(root_dir: str, image: str) -> list[RegistryAuth]:
    """What <root-dir>/config.json holds for the image. Blocking; read each time, so that it may change."""
    path = Path(root_dir, "config.json")
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return matching([_parsed(text, str(path), nested=True)], image)


def matching(tables: Iterable[Table], image: str) -> list[RegistryAuth]:
    """Of all tables together; each credential once."""
    image = repository(image)
    found: list[RegistryAuth] = []
    for table in tables:
        places = {_place(server): auth for server, auth in table.items()}
        here = [places[place] for place in sorted(places, reverse=True) if place and matches(place, image)]
        if not here and image.startswith(_HUB + "/") and _DEFAULT in places:
            here = [places[_DEFAULT]]
        found += [auth for auth in here if auth not in found]
    return found


def matches(place: str, image: str) -> bool:
    """Whether an image lies below a place such as *.example:5000/team."""
    host, port, path = _parts(place)
    image_host, image_port, image_path = _parts(image)
    labels, image_labels = host.split("."), image_host.split(".")
    return (
        len(labels) == len(image_labels)
        and port == image_port
        and image_path.startswith(path)
        and all(fnmatch.fnmatchcase(theirs, ours) for ours, theirs in zip(labels, image_labels, strict=True))
    )


def _parts(text: str) -> tuple[str, str, str]:
    try:
        url = urlsplit("https://" + text)
        return url.hostname or "", url.netloc.rpartition(":")[2] if url.port is not None else "", url.path
    except ValueError:
        return "", "", text  # no port at all: matches nothing


def _place(server: str) -> str:
    """A key of a table without scheme; /v1/ and /v2/ are what old clients wrote for the registry itself. Empty when it is no
    address at all, which matches no image."""
    text = server if "://" in server else "https://" + server
    try:
        url = urlsplit(text)
    except ValueError:
        return ""
    path = url.path[3:] if url.path.startswith(("/v1/", "/v2/")) else url.path
    return url.netloc + path if path not in ("", "/") else url.netloc


class _Entry(msgspec.Struct, frozen=True):
    username: str | None = None
    password: str | None = None
    auth: str | None = None


class _Nested(msgspec.Struct, frozen=True):
    auths: dict[str, _Entry] | None = None


def _of_secret(secret: Secret, where: str) -> Table:
    for key, nested in ((".dockerconfigjson", True), (".dockercfg", False)):
        encoded = secret.data.get(key, "")
        if encoded:
            try:
                text = base64.b64decode(encoded).decode(errors="replace")
            except ValueError:
                log.warning("%s: %s is not base64", where, key)
                return {}
            return _parsed(text, where, nested=nested)
    return {}


def _parsed(text: str, where: str, *, nested: bool) -> Table:
    """Whoever may write a Secret writes this text: what is wrong with it costs him his credentials, and nobody anything else."""
    try:
        if nested:
            entries = msgspec.json.decode(text, type=_Nested).auths or {}
        else:
            entries = msgspec.json.decode(text, type=dict[str, _Entry])
        return {server: _auth(entry) for server, entry in entries.items()}
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors, as is what is no base64
        log.warning("%s: not a table of registry credentials: %s", where, error)
        return {}


def _auth(entry: _Entry) -> RegistryAuth:
    user, password = entry.username or "", entry.password or ""
    if entry.auth:
        user, _, password = base64.b64decode(entry.auth).decode(errors="replace").partition(":")
    return RegistryAuth(username=user, password=password.strip("\x00"))
