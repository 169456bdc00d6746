"""wherry-metrics."""

import sys
from collections.abc import Sequence

from kube import process
from metrics import config


def main(argv: Sequence[str] | None = None) -> int:
    return process.enter("wherry-metrics", config.load, "metrics.daemon", argv)


if __name__ == "__main__":
    sys.exit(main())
