"""Images of a CRI runtime."""

from __future__ import annotations

import contextlib
import dataclasses

from kubelet.cri import calls, spec
from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import NO_LIMIT, Client
from kubelet.cri.health import Health
from kubelet.runtime import FsUsage, Image, NotFound, RegistryAuth, RuntimeUnavailable


class Images:
    def __init__(self, client: Client, health: Health) -> None:
        self._client = client
        self._health = health
        self._users: dict[str, str] = {}  # image id -> its user

    async def pull(self, image: str, auth: RegistryAuth | None) -> str:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=image), auth=spec.auth(auth))
        return (await self._client.call(calls.PULL, request, subject=image, timeout=NO_LIMIT)).image_ref

    async def status(self, image: str) -> Image | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=image))
        told = await self._client.call(calls.IMAGE_STATUS, request, subject=image)
        return self._pinned(spec.image(told.image)) if told.HasField("image") else None

    def _pinned(self, image: Image) -> Image:
        """A containerd before 1.7 does not say that nobody may collect the sandboxes' image."""
        if self._health.sandbox_image and self._health.sandbox_image in image.tags:
            return dataclasses.replace(image, pinned=True)
        return image

    async def user(self, image_id: str) -> str:
        """Raises NotFound: an image that went meanwhile is no image without a user, whose containers would be root's."""
        if image_id not in self._users:
            image = await self.status(image_id)
            if image is None:
                raise NotFound(f"image {image_id} is gone")
            self._users[image_id] = image.user
        return self._users[image_id]

    async def list(self) -> list[Image]:
        told = await self._client.ask(calls.LIST_IMAGES, pb.ListImagesRequest())
        return [self._pinned(spec.image(each)) for each in told.images]

    async def remove(self, image: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=image))
        with contextlib.suppress(NotFound):
            await self._client.ask(calls.REMOVE_IMAGE, request, subject=image)

    async def filesystem(self) -> FsUsage:
        told = await self._client.ask(calls.IMAGE_FS, pb.ImageFsInfoRequest())
        if not told.image_filesystems:
            raise RuntimeUnavailable("cri: the runtime names no filesystem of its images")
        first = told.image_filesystems[0]
        return FsUsage(
            mountpoint=first.fs_id.mountpoint,
            used_bytes=first.used_bytes.value,
            inodes_used=first.inodes_used.value,
        )
