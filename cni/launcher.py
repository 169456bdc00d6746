"""Lays out what a runtime execs and what it reads: the plugin's program and the network's configuration file.

The program is a five-line script. Its first line starts the interpreter bare (``-I -S``: no site-packages, no user
site, no PYTHON* variables; a venv's ``site`` alone costs as much as the plugin), so the script says itself where the
packages are. It leaves by ``os._exit``: tearing an interpreter down neatly takes longer than a pod's kernel work.

Not on the plugin's own path; imported by what installs nodes.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cni.config import BRIDGE, DATA_DIR, SUBNET_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "wherry-cni"
CONFLIST = "10-wherry.conflist"
STOCK_DIRS = ("/opt/cni/bin", "/usr/lib/cni")
"""Where the plugins of the reference project are: as its releases have it, and as Debian has it."""

_PROGRAM = """\
#!{python} -IS
# Written by wherry. CNI runtimes start this once per pod: see docs/cni.md.
import os, sys
sys.path.append({root!r})
from cni.__main__ import main
status = main()
sys.stderr.flush()
os._exit(status)
"""
_LONGEST_SHEBANG = 255


def write_plugins(bin_dir: str | Path, python: str = sys.executable) -> Path:
    """Writes (or rewrites, atomically) the plugin's program into the directory; its path.

    ValueError when the kernel could not start it: the interpreter's path must have no blanks and fit a ``#!`` line.
    """
    interpreter = os.path.realpath(python)
    if any(character.isspace() for character in interpreter) or len(interpreter) + len("#! -IS") > _LONGEST_SHEBANG:
        raise ValueError(f"{interpreter} cannot start {NAME}: its path must be short and without blanks")
    root = str(Path(__file__).resolve().parent.parent)
    return _write(Path(bin_dir) / NAME, _PROGRAM.format(python=interpreter, root=root).encode(), 0o755)


def stock_plugins() -> dict[str, str]:
    """Paths of the reference plugins that nodes use beside ours, where they are installed: `loopback` (containerd calls it for
    every pod) and `portmap` (hostPort)."""
    found = {name: shutil.which(name, path=os.pathsep.join(STOCK_DIRS)) for name in ("loopback", "portmap")}
    return {name: path for name, path in found.items() if path}


def link_plugins(bin_dir: str | Path, plugins: Mapping[str, str]) -> None:
    """Links to others' plugins beside ours: containerd looks in one directory only."""
    for name, path in plugins.items():
        link = Path(bin_dir) / name
        link.unlink(missing_ok=True)
        link.symlink_to(path)


def conflist(
    *,
    name: str = "wherry",
    bridge: str = BRIDGE,
    subnet_file: str = SUBNET_FILE,
    data_dir: str = DATA_DIR,
    hairpin: bool = True,
    portmap: bool = False,
) -> bytes:
    """The network configuration of a node whose subnet the overlay decides, as the file's content. `portmap`: hostPort works, by
    rules that the reference plugin makes."""
    plugin = {
        "type": NAME,
        "bridge": bridge,
        "hairpinMode": hairpin,
        "subnetFile": subnet_file,
        "dataDir": data_dir,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    chain = [plugin, *([ports] if portmap else [])]
    return json.dumps({"cniVersion": "1.0.0", "name": name, "plugins": chain}, indent=2).encode() + b"\n"


def write_conflist(conf_dir: str | Path, content: bytes) -> Path:
    """Writes the network configuration atomically: runtimes watch the directory and read at any moment."""
    return _write(Path(conf_dir) / CONFLIST, content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A dot file until it is whole: runtimes read neither hidden files nor other suffixes.
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
    return path
