from __future__ import annotations

import sys
from collections.abc import Sequence

from apiserver import config
from kube import process


def main(argv: Sequence[str] | None = None) -> int:
    return process.enter("wherry-apiserver", config.load, "apiserver.daemon", argv)


if __name__ == "__main__":
    sys.exit(main())
