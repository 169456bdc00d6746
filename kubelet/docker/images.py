"""Images on a dockerd."""

from __future__ import annotations

import contextlib

from docker.api.client import APIClient

from kubelet.docker import spec
from kubelet.docker.engine import Engine
from kubelet.docker.wire import Wire
from kubelet.runtime import FsUsage, Image, NotFound, RegistryAuth, RuntimeRefused


class Images:
    def __init__(self, engine: Engine, wire: Wire, pause_image: str) -> None:
        self._engine = engine
        self._pause_image = pause_image  # nobody may collect it
        self._wire = wire
        self._by_id: dict[str, Image] = {}  # for container statuses, which ask by id, often

    async def status(self, image: str) -> Image | None:
        def look(client: APIClient) -> Image:
            return spec.image_of(client.inspect_image(image), self._pause_image)  # type: ignore[no-untyped-call]

        try:
            return await self._engine.call("image_status", image, look)
        except NotFound:
            return None

    async def by_id(self, image_id: str) -> Image | None:
        if image_id not in self._by_id:
            try:
                found = await self.status(image_id)
            except RuntimeRefused:  # damaged: its containers are known all the same, by its id
                return None
            if found is None:
                return None
            self._by_id[image_id] = found
        return self._by_id[image_id]

    async def list(self) -> list[Image]:
        def rows(client: APIClient) -> list[Image]:
            return [spec.image_of(row, self._pause_image) for row in client.images()]

        return await self._engine.ask("list_images", "", rows)

    async def filesystem(self) -> FsUsage:
        """Where dockerd keeps its images. What they use is the sum of their sizes, shared layers counted once an image:
        dockerd's own answer (system/df) walks every container's files."""

        def look(client: APIClient) -> str:
            return str(client.info()["DockerRootDir"])

        where = await self._engine.ask("image_fs_info", "", look)
        sizes = {image.id: image.size for image in await self.list()}
        return FsUsage(mountpoint=where, used_bytes=sum(sizes.values()))

    async def pull(self, image: str, auth: RegistryAuth | None) -> str:
        self._by_id.clear()
        await self._wire.pull(image, auth)
        found = await self.status(image)
        if found is None:
            raise RuntimeRefused(f"image {image} was pulled and is not there: dockerd removed it meanwhile")
        return found.id

    async def remove(self, image: str) -> None:
        def remove(client: APIClient) -> None:
            client.remove_image(image, force=False)

        self._by_id.clear()
        with contextlib.suppress(NotFound):
            await self._engine.ask("remove_image", image, remove)
