"""The configuration's file: written out whole for `--write-config-to`, and watched for changes while the proxy runs.

A change ends the proxy, as upstream has it: whatever was made of the old values is made anew by starting again, and the
rules stay in place meanwhile. What counts is the content: a ConfigMap's files are replaced by renaming a directory above.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Never

import yaml

from kube import settings
from kube.errors import UsageError
from kube.reconcile import Wake
from linux.inotify import Inotify
from proxy.config import API_VERSION, KIND, Config


class Changed(Exception):
    """The file has another content than when this process started."""


def write(config: Config, path: str) -> None:
    document = {"apiVersion": API_VERSION, "kind": KIND, **settings.render(config)}
    try:
        Path(path).write_text(yaml.safe_dump(document, sort_keys=False))
    except OSError as error:
        raise UsageError(f"--write-config-to {path}: {error.strerror}; name a file that can be written") from error


async def unchanged(path: str) -> Never:
    """Raises Changed when the file's content does. A file that goes away for a moment, or cannot be read, is the same."""
    known = _content(path)
    wake = Wake()
    with Inotify(asyncio.get_running_loop(), wake.set) as notices:
        while True:
            notices.watch(os.path.dirname(os.path.abspath(path)))
            found = _content(path)
            if found is not None and known is not None and found != known:
                raise Changed(f"--config {path} has changed: ending, to be started again with it")
            known = known if found is None else found
            await wake.wait()


def _content(path: str) -> bytes | None:
    try:
        return Path(path).read_bytes()
    except OSError:
        return None
