"""`wherry-proxy`."""

import sys
from collections.abc import Sequence

from kube import process
from proxy import config


def main(argv: Sequence[str] | None = None) -> int:
    return process.enter("wherry-proxy", config.load, "proxy.daemon", argv)


if __name__ == "__main__":
    sys.exit(main())
