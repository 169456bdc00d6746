"""What is asked of the runtime and the machine for the Node's status: never for long, and what fails leaves a gap, not a lie."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from kubelet.config import Config
from kubelet.nodestatus import machine
from kubelet.nodestatus.machine import Machine, Pressure
from kubelet.nodestatus.node import Portrait
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
    _looking: "asyncio.Future[Pressure] | None" = None
    _felt: Pressure = Pressure()  # noqa: RUF009  a value

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
        """Filesystems are asked in a thread: one may hang; then there is one thread that hangs, and what was last seen is
        told. A runtime that has not said its version is not asked more."""
        if self._images_on is None and self.version is not None:
            try:
                async with asyncio.timeout(PATIENCE):
                    self._images_on = (await self.runtime.image_fs()).mountpoint
            except (RuntimeUnavailable, TimeoutError):
                log.debug("the runtime does not say where its images are")
        root, thresholds = self.config.root_dir, self.config.thresholds
        if self._looking is None:
            look = partial(machine.pressure, thresholds, root, self._images_on or root)
            self._looking = asyncio.get_running_loop().run_in_executor(None, look)
        done, _ = await asyncio.wait({self._looking}, timeout=PATIENCE)
        if done:
            looked, self._looking = self._looking, None
            self._felt = looked.result()
        else:
            log.warning("the filesystem of %s or of images does not answer", root)
        return self._felt

    async def images(self) -> Sequence[Image]:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.runtime.list_images()
        except (RuntimeUnavailable, TimeoutError):
            return ()
