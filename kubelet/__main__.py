"""wherry-kubelet."""

import sys
from collections.abc import Sequence

from kube import process
from kubelet import config


def main(argv: Sequence[str] | None = None) -> int:
    return process.enter("wherry-kubelet", config.load, "kubelet.daemon", argv)


if __name__ == "__main__":
    sys.exit(main())
