"""Lays out what a runtime execs and what it reads: the plugins' programs and the network's configuration file.

One program stands under every plugin's name, and asks the agent. Where a C compiler is at hand it is compiled from shim.c
(a process that starts in a millisecond), else it is the same in Python (nine); either becomes `wherry-cni-alone` where there
is no agent to ask. What differs from node to node, its path and the socket's, is written into the compiled file, so that one
process compiles once for all nodes of a lab.

The Python programs are scripts whose first line starts the interpreter bare (``-I -S``: no site-packages, no user
site, no PYTHON* variables; a venv's ``site`` alone costs as much as the plugin), so they say themselves where the
packages are. They leave by ``os._exit``: tearing an interpreter down neatly takes longer than a pod's kernel work.

Not on the plugin's own path; imported by what installs nodes.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cni.config import BRIDGE, DATA_DIR, SUBNET_FILE
from cni.journal import RUN
from cni.plugins import NAMES
from cni.spec import NEWEST, VERSIONS
from cni.wire import SOCKET

NAME = "wherry-cni"
ALONE = "wherry-cni-alone"
CONFLIST = "10-wherry.conflist"
_OLDEST = "1.0.0"  # that our configuration speaks: what runtimes without CNI 1.1 (containerd 1.6) read

_HEAD = """\
#!{python} -IS
# Written by wherry. CNI runtimes start this once per pod: see docs/cni.md.
import sys
sys.path.append({root!r})
"""
_SHIM = """\
from cni.shim import main
status = main({socket!r}, {run!r})
import posix
sys.stderr.flush()
posix._exit(status)
"""
_ALONE = """\
from cni.alone import main
status = main(sys.argv[1] if sys.argv[1:] else {name!r}, {run!r})
import posix
sys.stderr.flush()
posix._exit(status)
"""
_LONGEST_SHEBANG = 255
_LONGEST_SOCKET = 103  # bytes: struct sockaddr_un, and the agent begins with ".new" behind it
_MARKS = {"socket": 108, "python": 1024, "program": 1024}  # bytes reserved in shim.c
_COMPILERS = ("cc", "gcc", "clang")
_COMPILE_SECONDS = 60.0


def write_plugins(
    bin_dir: str | Path,
    python: str = sys.executable,
    *,
    socket: str = SOCKET,
    run: str = RUN,
    compiled: bool = True,
) -> Path:
    """Writes (or rewrites, each atomically) the plugins' programs into the directory; the path of ours. ``socket`` is the
    agent's, ``run`` the directory in which calls under way are kept; ``compiled`` False leaves the compiler alone.

    ValueError when the kernel could not start them: the interpreter's path must have no blanks and fit a ``#!`` line.
    """
    interpreter = os.path.realpath(python)
    if any(character.isspace() for character in interpreter) or len(interpreter) + len("#! -IS") > _LONGEST_SHEBANG:
        raise ValueError(f"{interpreter} cannot start {NAME}: its path must be short and without blanks")
    if len(os.fsencode(socket)) > _LONGEST_SOCKET:
        raise ValueError(f"{socket} cannot be a socket: its path must fit {_LONGEST_SOCKET} bytes")
    folder = Path(bin_dir)
    head = _HEAD.format(python=interpreter, root=str(Path(__file__).resolve().parent.parent))
    alone = _write(folder / ALONE, (head + _ALONE.format(name=NAME, run=run)).encode(), 0o755)
    image = _compiled() if compiled else None
    program = (
        (head + _SHIM.format(socket=socket, run=run)).encode()
        if image is None
        else _marked(image, socket=socket, python=interpreter, program=str(alone.absolute()))
    )
    ours = _write(folder / NAME, program, 0o755)
    for name in NAMES:
        if name != NAME:
            draft = folder / f".{name}.{os.getpid()}"
            draft.unlink(missing_ok=True)
            os.link(ours, draft)
            os.replace(draft, folder / name)
    return ours


def is_compiled(program: Path) -> bool:
    with open(program, "rb") as file:
        return file.read(4) == b"\x7fELF"


@functools.cache
def _compiled() -> bytes | None:
    """shim.c as a program that has answered a call; None where no compiler makes one."""
    source = Path(__file__).with_name("shim.c")
    versions = ",".join(f'\\"{each}\\"' for each in VERSIONS)
    for compiler in filter(None, map(shutil.which, _COMPILERS)):
        for linking in (["-static"], []):
            with tempfile.TemporaryDirectory(prefix="wherry-cni-") as directory:
                program = f"{directory}/{NAME}"
                flags = ["-O2", "-s", *linking, f'-DNEWEST="{NEWEST}"', f'-DVERSIONS="{versions}"']
                try:
                    subprocess.run(
                        [compiler, *flags, str(source), "-o", program],
                        capture_output=True,
                        timeout=_COMPILE_SECONDS,
                        check=True,
                    )
                    said = subprocess.run(
                        [program], env={"CNI_COMMAND": "VERSION"}, capture_output=True, timeout=10, check=True
                    ).stdout
                    if json.loads(said)["supportedVersions"] == list(VERSIONS):
                        return Path(program).read_bytes()
                except (OSError, subprocess.SubprocessError, ValueError, KeyError):
                    continue
    return None


def _marked(image: bytes, **paths: str) -> bytes:
    """The compiled program with its paths in the places that it keeps for them."""
    found = bytearray(image)
    for name, path in paths.items():
        mark, value = f"@wherry:{name}@".encode(), os.fsencode(path)
        start = found.index(mark)
        if len(value) >= _MARKS[name]:
            raise ValueError(f"{path} is too long to be written into {NAME}")
        found[start : start + _MARKS[name]] = value.ljust(_MARKS[name], b"\0")
    return bytes(found)


def conflist(
    *,
    name: str = "wherry",
    bridge: str = BRIDGE,
    subnet_file: str = SUBNET_FILE,
    data_dir: str = DATA_DIR,
    hairpin: bool = True,
    agent: bool = False,
) -> bytes:
    """The network configuration of a node whose subnet the overlay decides, as the file's content. Behind the network come
    hostPort and bandwidth, which cost a pod that asks for neither no more than a look. ``agent``: ADDs wait for the agent."""
    plugin = {
        "type": NAME,
        **({"agent": True} if agent else {}),
        "bridge": bridge,
        "hairpinMode": hairpin,
        "subnetFile": subnet_file,
        "dataDir": data_dir,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    rates = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
    versions = {"cniVersion": _OLDEST, "cniVersions": [_OLDEST, NEWEST]}
    return json.dumps({**versions, "name": name, "plugins": [plugin, ports, rates]}, indent=2).encode() + b"\n"


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
