"""The process that holds a sandbox's namespaces, as an image made on the spot.

No registry is asked: the image is a tar of one file, the host's static busybox, imported under `wherry.local/pause:1`. The
tar is the same bytes every time. The process is `busybox sleep infinity`, which ends on SIGKILL only (it is PID 1 of its
namespace), so a sandbox's STOPSIGNAL is SIGKILL.
"""

from __future__ import annotations

import io
import struct
import tarfile

from docker.api.client import APIClient

from kubelet.runtime import RuntimeUnavailable

PAUSE_IMAGE = "wherry.local/pause:1"
COMMAND = ("/bin/busybox", "sleep", "infinity")
# Where the pod shares its PID namespace this is everybody's PID 1, and orphans are its to bury: the shell's wait does that.
REAPING = ("/bin/busybox", "sh", "-c", "while :; do /bin/busybox sleep 2147483647 & wait; done")
_CANDIDATES = ("/bin/busybox", "/usr/bin/busybox", "/usr/lib/busybox/busybox-static", "/bin/busybox.static")


def is_static(header: bytes) -> bool:
    """Whether an ELF file, given its first 4 KiB, asks for no dynamic linker (a PT_INTERP program header)."""
    if header[:4] != b"\x7fELF" or len(header) < 64:
        return False
    wide, order = header[4] == 2, "<" if header[5] == 1 else ">"
    if wide:
        (offset,) = struct.unpack_from(f"{order}Q", header, 32)
        size, count = struct.unpack_from(f"{order}HH", header, 54)
    else:
        (offset,) = struct.unpack_from(f"{order}I", header, 28)
        size, count = struct.unpack_from(f"{order}HH", header, 42)
    if offset + size * count > len(header):
        return False
    kinds = (struct.unpack_from(f"{order}I", header, offset + size * index)[0] for index in range(count))
    return 3 not in kinds


def static_busybox() -> str:
    for path in _CANDIDATES:
        try:
            with open(path, "rb") as file:
                if is_static(file.read(4096)):
                    return path
        except OSError:
            continue
    raise RuntimeUnavailable(
        f"the pause image {PAUSE_IMAGE} is missing and there is no static busybox to build it from: "
        "apt-get install busybox-static, or name an image with --pod-infra-container-image"
    )


def root_filesystem(busybox: bytes) -> bytes:
    """A tar with bin/busybox and the folders runtimes mount on; the same bytes for the same busybox."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in ("bin", "dev", "etc", "proc", "sys"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.mode, entry.size = 0o755, len(busybox)
        tar.addfile(entry, io.BytesIO(busybox))
    return buffer.getvalue()


def build(client: APIClient) -> None:
    """Import it under its name; blocking."""
    with open(static_busybox(), "rb") as file:
        tar = root_filesystem(file.read())
    repository, _, tag = PAUSE_IMAGE.rpartition(":")
    client.import_image_from_data(tar, repository=repository, tag=tag)
