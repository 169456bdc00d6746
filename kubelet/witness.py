"""What is asked of the runtime and the machine for the Node's status: never for long, and what fails leaves a gap, not a lie."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from kubelet import machine
from kubelet.config import Config
from kubelet.machine import Machine, Pressure
from kubelet.node import Portrait
from kubelet.runtime import Image, Runtime, RuntimeUnavailable, RuntimeVersion

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds that telling about the node may wait for the runtime


@dataclass(slots=True)
class Witness:
    config: Config
    name: str
    ips: tuple[str, ...]
    facts: Machine
    runtime: Runtime
    version: RuntimeVersion | None = None
    _images_on: str | None = None

    async def portrait(self) -> Portrait:
        if self.version is None:
            try:
                async with asyncio.timeout(PATIENCE):
                    self.version = await self.runtime.version()
            except (RuntimeUnavailable, TimeoutError) as error:
                log.warning("runtime version: %s", str(error) or "no answer")
        return Portrait(
            name=self.name, config=self.config, machine=self.facts, addresses=self.ips, version=self.version
        )

    async def pressure(self) -> Pressure:
        """Filesystems are asked in a thread: one may hang. A runtime that has not said its version is not asked more."""
        if self._images_on is None and self.version is not None:
            try:
                async with asyncio.timeout(PATIENCE):
                    self._images_on = (await self.runtime.image_fs()).mountpoint
            except (RuntimeUnavailable, TimeoutError):
                log.debug("the runtime does not say where its images are")
        root, thresholds = self.config.root_dir, self.config.thresholds
        return await asyncio.to_thread(machine.pressure, thresholds, root, self._images_on or root)

    async def images(self) -> Sequence[Image]:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.runtime.list_images()
        except (RuntimeUnavailable, TimeoutError):
            return ()
