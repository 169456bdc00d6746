"""The lab's images, built from this machine's own files: no registry is asked for anything.

All of them are one archive in the format of `docker save`, which `docker load` and `ctr images import` read alike. Times
and owners are fixed, so the same input is the same archive and the same image ids.

    wherry.local/demo:1     a static busybox, its applets as links, and the files of deploy/demo/image
    wherry.local/pause:1    the busybox alone, asleep: what holds a pod's namespaces on containerd
    wherry.local/wherry:V   nothing but directories: interpreter and code come as read-only hostPath volumes (lab.static)
"""

import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kube.errors import UsageError
from lab.model import DEMO_IMAGE, PAUSE_IMAGE

_TOOLS = ("/usr/bin/busybox", "/bin/busybox")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}


@dataclass(frozen=True, slots=True)
class Image:
    """`layer` is the file system as a tar, `config` what OCI calls an image's config."""

    name: str
    layer: bytes = field(repr=False)
    config: Mapping[str, object]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.layer).hexdigest()

    @property
    def document(self) -> bytes:
        """The configuration, whose digest is the image's id."""
        document = {
            "architecture": _MACHINES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{self.digest}"]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "wherry lab"}],
        }
        return json.dumps(document, sort_keys=True).encode()

    @property
    def id(self) -> str:
        return hashlib.sha256(self.document).hexdigest()


def busybox() -> str:
    """Path of a statically linked busybox."""
    for path in (shutil.which("busybox"), *_TOOLS):
        if path and Path(path).exists():
            return path
    raise UsageError("no busybox on this machine; apt-get install busybox-static (the demo image is made of it)")


def demo(folder: Path) -> Image:
    """/bin/busybox and its applets, /tmp, /etc/passwd, and `folder` laid over it."""
    binary = busybox()
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "www"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755))
        _file(tar, "bin/busybox", Path(binary).read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                _link(tar, f"bin/{applet}", "busybox")
        _accounts(tar)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            _file(
                tar, str(path.relative_to(folder)), path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644
            )
    return Image(DEMO_IMAGE, out.getvalue(), {"Entrypoint": ["/bin/demo"], "Env": ["PATH=/bin"]})


def pause() -> Image:
    """What a sandbox of containerd runs. It ends on SIGKILL only: it is PID 1 of its namespace, with no signal handlers. Where
    the pod shares its processes it buries their orphans: the shell's wait does that."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "etc", "proc", "sys", "dev"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
        _file(tar, "bin/busybox", Path(busybox()).read_bytes(), 0o755)
    script = "while :; do /bin/busybox sleep 2147483647 & wait; done"
    config = {"Entrypoint": ["/bin/busybox", "sh", "-c", script], "StopSignal": "SIGKILL"}
    return Image(PAUSE_IMAGE, out.getvalue(), config)


def skeleton(name: str, links: Mapping[str, str]) -> Image:
    """Directories to mount on, and `links` as this machine has them at its root (bin -> usr/bin)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for folder in ("dev", "etc", "proc", "run", "sys", "tmp", "usr", "var"):
            tar.addfile(_entry(folder, tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755))
        for link, target in sorted(links.items()):
            _link(tar, link, target)
        _accounts(tar)
    return Image(name, out.getvalue(), {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]})


def root_links() -> dict[str, str]:
    """/bin, /lib and their like, where they are links into /usr."""
    names = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
    return {name: os.readlink(f"/{name}") for name in names if os.path.islink(f"/{name}")}


def archive(images: Sequence[Image]) -> bytes:
    """What `docker save` would give for these images."""
    out = io.BytesIO()
    listed = []
    with tarfile.open(fileobj=out, mode="w") as tar:
        for image in images:
            _file(tar, f"{image.id}.json", image.document, 0o644)
            _file(tar, f"{image.digest}/layer.tar", image.layer, 0o644)
            listed.append(
                {"Config": f"{image.id}.json", "RepoTags": [image.name], "Layers": [f"{image.digest}/layer.tar"]}
            )
        _file(tar, "manifest.json", json.dumps(listed).encode(), 0o644)
    return out.getvalue()


def load(docker: str, images: Sequence[Image]) -> bool:
    """Give a Docker daemon what it lacks, or has made of other files; True when something was given."""
    import docker as docker_package

    client = docker_package.APIClient(base_url=docker, timeout=60)
    try:
        known = {tag: i["Id"].removeprefix("sha256:") for i in client.images() for tag in i.get("RepoTags") or ()}
        lacking = [image for image in images if known.get(image.name) != image.id]
        if lacking:
            client.load_image(archive(lacking))  # type: ignore[no-untyped-call] # types-docker leaves it out
    finally:
        client.close()
    return bool(lacking)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 0
    return entry


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    link = _entry(name, tarfile.SYMTYPE, 0o777)
    link.linkname = target
    tar.addfile(link)


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _accounts(tar: tarfile.TarFile) -> None:
    _file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
    _file(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
