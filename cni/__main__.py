"""The plugins' program: one CNI call and the end. The name it is started under chooses the plugin."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_ABOUT = """{name}: a CNI plugin of Wherry.
A container runtime calls it with CNI_* variables and a network configuration on stdin; see docs/cni.md. The same program
answers as {names}. It speaks CNI {versions}.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; ``argv`` is not looked at beyond the program's own name (CNI passes everything else otherwise)."""
    kind = os.path.basename((argv or sys.argv)[0])
    if not os.environ.get("CNI_COMMAND"):
        from cni.plugins import NAMES
        from cni.spec import VERSIONS

        sys.stderr.write(_ABOUT.format(name=kind, names=", ".join(NAMES), versions=", ".join(VERSIONS)))
        return 0
    from cni.run import answer

    said, status = answer(kind, os.environ, sys.stdin.buffer.read())
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
