"""The plugins' program without shim and agent: one CNI call and the end. The name it is started under chooses the plugin."""

from __future__ import annotations

import os
import sys

from cni import alone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; ``argv`` is not looked at beyond the program's own name (CNI passes everything else otherwise)."""
    return alone.main(os.path.basename((argv or sys.argv)[0]))


if __name__ == "__main__":
    sys.exit(main())
