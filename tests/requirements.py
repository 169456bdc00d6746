"""What a test needs of the machine, asked for by name.

`requires("root", "iptables")` skips the test and says what is missing; where CI is set, a missing requirement is a failure,
because there the tests that need a kernel are the ones that count.
"""

import os
import shutil
from pathlib import Path

import pytest

_PATHS = ("/usr/sbin", "/sbin", "/usr/lib/cni")
_ALL_VERSIONS: list[bool] = []
"""Not empty when this run tries every version of a client that is there (`--soak`)."""


def every_version() -> None:
    """From here on `kubectls` names all of them."""
    _ALL_VERSIONS.append(True)


def all_versions() -> bool:
    return bool(_ALL_VERSIONS)


def tool(name: str) -> str | None:
    """Where a program is, also in the system directories that PATH may lack."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_PATHS))


def missing(*names: str) -> list[str]:
    """Those of `names` that this machine lacks: `root`, `netns`, or the name of a program."""
    return [name for name in names if not _there(name)]


def _there(name: str) -> bool:
    match name:
        case "root":
            return os.geteuid() == 0
        case "netns":
            return os.geteuid() == 0 and Path("/proc/self/ns/net").exists()
        case _:
            return tool(name) is not None


def requires(*names: str) -> None:
    """Skip (in CI: fail) the calling test or module unless the machine has all of `names`."""
    lacking = missing(*names)
    if not lacking:
        return
    text = f"this machine lacks: {', '.join(lacking)}"
    if os.environ.get("CI"):
        pytest.fail(f"{text}; in CI every requirement must be there", pytrace=False)
    pytest.skip(text, allow_module_level=True)


def kubectls() -> list[str]:
    """The kubectls to test with, oldest first: those of `$WHERRY_KUBECTLS` (colon-separated), or each `kubectl.1.NN` beside or
    on PATH in a long run, and in a short one the oldest and the newest of them. A plain `kubectl` where there are no others."""
    named = [p for p in os.environ.get("WHERRY_KUBECTLS", "").split(":") if p]
    if named:
        return named
    found: dict[int, str] = {}
    default = tool("kubectl")
    folders = os.environ.get("PATH", "").split(os.pathsep)
    if default:
        folders.append(str(Path(default).resolve().parent))
    for folder in folders:
        for path in Path(folder).glob("kubectl.1.*") if folder and Path(folder).is_dir() else []:
            if (minor := path.name.rpartition(".")[2]).isdigit():
                found.setdefault(int(minor), str(path))
    if not found:
        return [default] if default else []
    chosen = sorted(found) if _ALL_VERSIONS else sorted({min(found), max(found)})
    return [found[minor] for minor in chosen]
