"""`wherry-scheduler`, `python -m scheduler`."""

import sys
from collections.abc import Sequence

from kube import process
from scheduler import config


def main(argv: Sequence[str] | None = None) -> int:
    return process.enter("wherry-scheduler", config.load, "scheduler.daemon", argv)


if __name__ == "__main__":
    sys.exit(main())
