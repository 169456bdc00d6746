"""Volumes of a pod (`validateVolumes` in pkg/apis/core/validation/validation.go)."""

from collections.abc import Iterator
from typing import Any, Final

from apiserver import schema
from apiserver.errors import DUPLICATE, FORBIDDEN, INVALID, Cause, cause, not_supported, required
from apiserver.validation import containers, names

Json = dict[str, Any]

_HOST_PATH_TYPES: Final = (
    "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket",
)  # fmt: skip
_NAMED: Final = {"secret": "secretName", "persistentVolumeClaim": "claimName"}
_MODE: Final = "must be a number between 0 and 0777 (octal), both inclusive"
_DOWNWARD: Final = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")


def volumes(values: Any, path: str) -> Iterator[Cause]:
    seen: set[str] = set()
    for index, one in enumerate(values):
        here = f"{path}[{index}]"
        name = one.get("name", "")
        if not name:
            yield required(f"{here}.name")
        else:
            for text in names.dns_label(name):
                yield cause(f"{here}.name", INVALID, name, text)
            if name in seen:
                yield cause(f"{here}.name", DUPLICATE, name)
        seen.add(name)
        yield from _source(one, here)


def _source(one: Json, path: str) -> Iterator[Cause]:
    fields = schema.named("io.k8s.api.core.v1.Volume").fields
    given = [key for key in fields if key != "name" and key in one]
    if not given:
        yield required(path, "must specify a volume type")
    for key in given[1:]:
        yield cause(f"{path}.{key}", FORBIDDEN, detail="may not specify more than 1 volume type")
    for key in given[:1]:
        source, here = one[key], f"{path}.{key}"
        match key:
            case "hostPath":
                yield from _host_path(source, here)
            case "secret" | "persistentVolumeClaim":
                if not source.get(_NAMED[key]):
                    yield required(f"{here}.{_NAMED[key]}")
                yield from _files(source, here)
            case "configMap":
                if not source.get("name"):
                    yield required(f"{here}.name")
                yield from _files(source, here)
            case "downwardAPI":
                yield from _downward(source, here)
            case "projected":
                yield from _projected(source, here)
            case _:
                pass


def _host_path(source: Json, path: str) -> Iterator[Cause]:
    target = source.get("path", "")
    if not target:
        yield required(f"{path}.path")
    elif ".." in target.split("/"):
        yield cause(f"{path}.path", INVALID, target, "must not contain '..'")
    if source.get("type", "") not in _HOST_PATH_TYPES:
        yield not_supported(f"{path}.type", source["type"], _HOST_PATH_TYPES)


def _files(source: Json, path: str) -> Iterator[Cause]:
    """Modes, and items that map keys to paths below the mount."""
    yield from _mode(source.get("defaultMode", 0), f"{path}.defaultMode")
    for index, item in enumerate(source.get("items", ())):
        here = f"{path}.items[{index}]"
        if not item.get("key"):
            yield required(f"{here}.key")
        yield from _file_path(item, here)


def _file_path(item: Json, path: str) -> Iterator[Cause]:
    if not item.get("path"):
        yield required(f"{path}.path")
    else:
        yield from containers.relative_path(item["path"], f"{path}.path")
    yield from _mode(item.get("mode", 0), f"{path}.mode")


def _mode(mode: int, path: str) -> Iterator[Cause]:
    if not 0 <= mode <= 0o777:
        yield cause(path, INVALID, mode, _MODE)


def _downward(source: Json, path: str) -> Iterator[Cause]:
    yield from _mode(source.get("defaultMode", 0), f"{path}.defaultMode")
    for index, item in enumerate(source.get("items", ())):
        here = f"{path}.items[{index}]"
        yield from _file_path(item, here)
        if "fieldRef" in item:
            yield from containers.field_reference(item["fieldRef"], f"{here}.fieldRef", _DOWNWARD)
        elif "resourceFieldRef" not in item:
            yield required(here, "one of fieldRef and resourceFieldRef is required")


def _projected(source: Json, path: str) -> Iterator[Cause]:
    yield from _mode(source.get("defaultMode", 0), f"{path}.defaultMode")
    for index, one in enumerate(source.get("sources", ())):
        here = f"{path}.sources[{index}]"
        for key in ("secret", "configMap"):
            if key in one:
                if not one[key].get("name"):
                    yield required(f"{here}.{key}.name")
                yield from _files(one[key], f"{here}.{key}")
        if "downwardAPI" in one:
            yield from _downward(one["downwardAPI"], f"{here}.downwardAPI")
        if "serviceAccountToken" in one and not one["serviceAccountToken"].get("path"):
            yield required(f"{here}.serviceAccountToken.path")
