"""Having the image a container needs: pull policy, back-off, and upstream's words for each way it can fail.
 An image that would not come waits 10 s, doubled up to 5 minutes, per pod and image; a failed pull shows as
ErrImagePull and the wait after it as ImagePullBackOff. (pkg/kubelet/images/image_manager.go)
"""

import base64
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from kube.core import Pod, Secret
from kubelet import backoff
from kubelet.runtime import Image, RegistryAuth, Runtime, RuntimeRefused

log = logging.getLogger(__name__)

ALWAYS, NEVER = "Always", "Never"
_REFERENCE = re.compile(
    r"(?:[A-Za-z0-9.\-\[\]:]+(?::\d+)?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
    r"(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[\w][\w.-]{0,127})?(?:@[A-Za-z0-9+._-]+:[0-9a-fA-F]{32,})?"
)

Tell = Callable[[Literal["Normal", "Warning"], str, str], None]


class StartFailed(Exception):
    """A container (or sandbox) did not start: what its status says, and the seconds until another try."""

    def __init__(self, reason: str, message: str, retry_after: float = 10.0) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class Pulls:
    def __init__(self, runtime: Runtime, clock: Callable[[], datetime]) -> None:
        self._runtime = runtime
        self._clock = clock
        self._entries: dict[tuple[str, str], tuple[backoff.Entry, str]] = {}

    def forget(self, uid: str) -> None:
        for key in [key for key in self._entries if key[0] == uid]:
            del self._entries[key]

    async def image(self, uid: str, image: str, policy: str, auths: Sequence[RegistryAuth], tell: Tell) -> Image:
        """The image, pulled if need be. Raises StartFailed."""
        if not _REFERENCE.fullmatch(image):
            message = f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}"'
            tell("Warning", "InspectFailed", message)
            raise StartFailed("InvalidImageName", message, backoff.CAP)
        present = await self._runtime.image_status(image)
        if present is not None and policy != ALWAYS:
            tell("Normal", "Pulled", f'Container image "{image}" already present on machine')
            return present
        if policy == NEVER:
            message = f'Container image "{image}" is not present with pull policy of Never'
            tell("Warning", "ErrImageNeverPull", message)
            raise StartFailed("ErrImageNeverPull", message)
        return await self._pull(uid, image, auths, tell)

    async def _pull(self, uid: str, image: str, auths: Sequence[RegistryAuth], tell: Tell) -> Image:
        key, now = (uid, image), self._clock()
        entry, why = self._entries.get(key, (None, ""))
        left = backoff.remaining(entry, entry.used, now) if entry else 0.0
        if left > 0:
            tell("Normal", "BackOff", f'Back-off pulling image "{image}"')
            raise StartFailed("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {why}', left)
        tell("Normal", "Pulling", f'Pulling image "{image}"')
        errors: list[str] = []
        for auth in (*auths, None) if auths else (None,):
            try:
                await self._runtime.pull(image, auth)
            except RuntimeRefused as error:
                errors.append(error.message)
                continue
            found = await self._runtime.image_status(image)
            if found is None:
                errors.append(f"image {image} is not there after its pull")
                continue
            self._entries.pop(key, None)
            took = backoff.spelt((self._clock() - now).total_seconds())
            words = f'Successfully pulled image "{image}" in {took} ({took} including waiting).'
            tell("Normal", "Pulled", f"{words} Image size: {found.size} bytes.")
            return found
        self._entries[key] = (backoff.following(entry, now, now), errors[0])
        tell("Warning", "Failed", f'Failed to pull image "{image}": {errors[0]}')
        # Shown for a moment as ErrImagePull; the next look finds the back-off and says so.
        raise StartFailed("ErrImagePull", errors[0], 2.0)


def pull_secrets(pod: Pod, secrets: Mapping[str, Secret], image: str) -> list[RegistryAuth]:
    """The credentials that the pod's imagePullSecrets hold for the image's registry."""
    first, slash, _ = image.partition("/")
    registry = first if slash and ("." in first or ":" in first) else "index.docker.io"
    found = []
    for reference in pod.spec.image_pull_secrets:
        secret = secrets.get(reference.name)
        encoded = secret.data.get(".dockerconfigjson", "") if secret else ""
        if not encoded:
            continue
        try:
            auths = json.loads(base64.b64decode(encoded)).get("auths", {})
        except (ValueError, AttributeError):
            log.warning("secret %s/%s: .dockerconfigjson is not valid JSON", pod.metadata.namespace, reference.name)
            continue
        for server, entry in auths.items():
            host = server.removeprefix("https://").removeprefix("http://").split("/")[0]
            if host != registry:
                continue
            user, password = entry.get("username", ""), entry.get("password", "")
            if entry.get("auth"):
                user, _, password = base64.b64decode(entry["auth"]).decode(errors="replace").partition(":")
            found.append(RegistryAuth(username=user, password=password))
    return found
