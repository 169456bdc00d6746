"""`wherry-overlay`: argv -> config -> daemon."""

import sys
from collections.abc import Sequence

from kube import process
from overlay import config


def main(argv: Sequence[str] | None = None) -> int:
    return process.enter("wherry-overlay", config.load, "overlay.daemon", argv)


if __name__ == "__main__":
    sys.exit(main())
