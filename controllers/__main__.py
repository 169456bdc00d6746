"""`wherry-controllers`, `python -m controllers`."""

import sys
from collections.abc import Sequence

from controllers import config
from kube import process


def main(argv: Sequence[str] | None = None) -> int:
    return process.enter("wherry-controllers", config.load, "controllers.daemon", argv)


if __name__ == "__main__":
    sys.exit(main())
