"""The lab's images, built from this machine's own files: no registry is asked for anything.

An image is a tar of a static busybox, its applets as links, and the files of an image folder (deploy/demo/image), imported
into dockerd. Times and owners in the tar are fixed, so the same input is the same image.
"""

import hashlib
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from kube.errors import UsageError

DEMO_IMAGE = "wherry.local/demo:1"
_TOOLS = ("/usr/bin/busybox", "/bin/busybox")


def busybox() -> str:
    """Path of a statically linked busybox."""
    for path in (shutil.which("busybox"), *_TOOLS):
        if path and Path(path).exists():
            return path
    raise UsageError("no busybox on this machine; apt-get install busybox-static (the demo image is made of it)")


def layer(folder: Path) -> bytes:
    """The image's file system as a tar: /bin/busybox and its applets, /tmp, /etc/passwd, and `folder` laid over it."""
    binary = busybox()
    applets = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "www"):
            tar.addfile(_entry(name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755))
        _file(tar, "bin/busybox", Path(binary).read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                link = _entry(f"bin/{applet}", tarfile.SYMTYPE, 0o777)
                link.linkname = "busybox"
                tar.addfile(link)
        _file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
        _file(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            _file(
                tar, str(path.relative_to(folder)), path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644
            )
    return out.getvalue()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, mode, 0
    return entry


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = _entry(name, tarfile.REGTYPE, mode)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def ensure(docker: str, folder: Path, image: str = DEMO_IMAGE) -> bool:
    """Import the image where it is missing or made of other files; True when something was imported."""
    import docker as docker_package

    content = layer(folder)
    digest = hashlib.sha256(content).hexdigest()
    client = docker_package.APIClient(base_url=docker, timeout=60)
    try:
        known = {tag: i for i in client.images() for tag in i.get("RepoTags") or ()}
        labels = (known.get(image) or {}).get("Labels") or {}
        if labels.get("io.wherry.layer") == digest:
            return False
        name, _, tag = image.rpartition(":")
        changes = ['ENTRYPOINT ["/bin/demo"]', "ENV PATH=/bin", f"LABEL io.wherry.layer={digest}"]
        client.import_image_from_data(content, repository=name, tag=tag, changes=changes)
    finally:
        client.close()
    return True
