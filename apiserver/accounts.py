"""ServiceAccounts as admission needs them: the one a pod names, or a short wait for a namespace's own.

The controllers make `default` in each new namespace, which takes them a moment, and clients create a namespace and pods in
it in one go. Upstream therefore looks ten times within one to two seconds (plugin/pkg/admission/serviceaccount); we wait as
long for the event.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from apiserver.cache import Entry, Event, Frames, Shelf, bucket_of_object

Obj = dict[str, Any]
DEFAULT: Final = "default"
PATIENCE: Final = 1.5


class Accounts:
    def __init__(self, shelf: Shelf, *, patience: float = PATIENCE) -> None:
        self._shelf = shelf
        self._patience = patience

    async def find(self, namespace: str, name: str) -> Obj | None:
        """None when there is none of that name; only `default` is waited for."""
        entry = self._shelf.get(namespace, name)
        if entry is None and name == DEFAULT:
            entry = await self._appearing(namespace, name)
        return entry.parse() if entry else None

    async def _appearing(self, namespace: str, name: str) -> Entry | None:
        appeared: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()

        def look(event: Event, _frames: Frames) -> None:
            if event.new is not None and not appeared.done():
                appeared.set_result(event.new)

        with self._shelf.watched(look, bucket_of_object(namespace, name)):
            try:
                return await asyncio.wait_for(appeared, self._patience)
            except TimeoutError:
                return None
