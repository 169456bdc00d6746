"""Writing a volume of small files so that readers see the old set or the new one, never a mix.

    volume/..2026_01_31_12_00_00.x7k2/key    the files of one version
    volume/..data -> ..2026_01_31_...        renaming this link over the old one is the only commit point
    volume/key -> ..data/key                 what containers open

Order (pkg/volume/util/atomic_writer.go): files, modes and owners first; then the rename; then links of new names; then
links of names that are gone; then the old version. An equal payload writes nothing, or every pass would wake whoever
watches the files. Being killed at any point leaves a whole version visible and litter that the next write removes.
"""

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kube.errors import Invalid

DATA = "..data"
NEXT = "..data_tmp"


@dataclass(frozen=True, slots=True)
class File:
    data: bytes
    mode: int = 0o644
    uid: int | None = field(default=None, compare=False)  # None: the kubelet's own, root


def checked(path: str) -> str:
    """A payload path that stays inside the volume; raises Invalid."""
    parts = path.split("/")
    if (
        not path
        or path.startswith("/")
        or ".." in parts
        or "" in parts
        or parts[0].startswith("..")
        or len(path) > 4096
        or "\0" in path
    ):
        raise Invalid(f"path {path!r} of a volume's item must be relative and may not contain '..' or a zero byte")
    return path


def _read(directory: Path) -> dict[str, File]:
    found: dict[str, File] = {}
    for top, _, names in os.walk(directory):
        for name in names:
            file = Path(top, name)
            found[str(file.relative_to(directory))] = File(file.read_bytes(), file.stat().st_mode & 0o7777)
    return found


def current(volume: Path) -> Path | None:
    """The directory of the version that is visible."""
    try:
        name = os.readlink(volume / DATA)
    except OSError:
        return None
    directory = volume / name
    return directory if directory.is_dir() else None


def write(volume: Path, payload: Mapping[str, File], *, gid: int | None = None) -> bool:
    """Make `payload` the volume's content; whether anything was written. The volume's directory exists."""
    for path in payload:
        checked(path)
    old = current(volume)
    if old is None or _read(old) != dict(payload):
        _switch(volume, payload, gid)
        changed = True
    else:
        changed = False
    tops = {path.split("/")[0] for path in payload}
    for name in sorted(tops):
        _link(volume / name, f"{DATA}/{name}")
    _sweep(volume, tops)
    return changed


def _switch(volume: Path, payload: Mapping[str, File], gid: int | None) -> None:
    stamp = datetime.now(UTC).strftime("%Y_%m_%d_%H_%M_%S")
    fresh = volume / f"..{stamp}.{secrets.token_hex(4)}"
    fresh.mkdir(mode=0o755)
    fresh.chmod(0o755)
    for path, file in payload.items():
        place = fresh / path
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        place.write_bytes(file.data)
        if gid is not None or file.uid is not None:
            os.chown(place, -1 if file.uid is None else file.uid, -1 if gid is None else gid)
        place.chmod(file.mode)
    (volume / NEXT).unlink(missing_ok=True)
    os.symlink(fresh.name, volume / NEXT)
    os.rename(volume / NEXT, volume / DATA)


def _link(place: Path, target: str) -> None:
    try:
        os.symlink(target, place)
    except FileExistsError:
        if not place.is_symlink() or os.readlink(place) != target:
            raise


def _sweep(volume: Path, tops: set[str]) -> None:
    """Remove links of names that are gone, and versions that nobody sees."""
    seen = current(volume)
    for entry in list(os.scandir(volume)):
        if entry.name.startswith(".."):
            if entry.is_dir(follow_symlinks=False) and seen is not None and entry.name != seen.name:
                shutil.rmtree(entry.path)
        elif entry.name not in tops and entry.is_symlink() and os.readlink(entry.path).startswith(DATA + "/"):
            os.unlink(entry.path)
