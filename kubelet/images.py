"""Whether a container's image is there, and getting it where it is not (upstream: pkg/kubelet/images/image_manager.go).

    policy         there            absent
    Always         pull             pull
    IfNotPresent   use              pull
    Never          use              ErrImageNeverPull

A pull that failed is not tried again before 10 s, then 20 s, up to 5 minutes; meanwhile the container waits with
ImagePullBackOff and the words of the failure. Pulls come one after the other (serializeImagePulls). Always with an image that no
registry has, as on a machine that builds its own, fails as it does upstream.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from kubelet import backoff
from kubelet.runtime import Image, RegistryAuth, Runtime, RuntimeRefused

# Event type, reason, message.
Tell = Callable[[str, str, str], None]

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_REFERENCE = re.compile(
    rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*(?::[\w][\w.-]{{0,127}})?(?:@[A-Za-z][A-Za-z0-9+.-]*:[0-9a-fA-F]{{32,}})?",
    re.ASCII,
)


class ImageRefused(Exception):
    """No image for now. `reason` is the container's waiting reason, `retry_after` seconds until trying may help."""

    def __init__(self, reason: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


def parse_problem(image: str) -> str:
    """What is wrong with an image reference; "" when nothing is."""
    if _REFERENCE.fullmatch(image):
        return ""
    why = "invalid reference format"
    if image != image.lower() and _REFERENCE.fullmatch(image.lower()):
        why += ": repository name must be lowercase"
    return f"couldn't parse image name {_quoted(image)}: {why}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Images:
    """One a kubelet: it remembers failed pulls."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runtime = runtime
        self._now = now
        self._clock = clock
        self._failed: dict[tuple[str, str], tuple[backoff.Entry, str]] = {}
        self._turn = asyncio.Lock()

    async def ensure(
        self, pod_key: str, image: str, policy: str, auths: Sequence[RegistryAuth] = (), tell: Tell | None = None
    ) -> Image:
        """The image a container is to be made of. ImageRefused says why there is none; `pod_key` is the pod's UID."""
        say = tell or _unheard
        name = _quoted(image)
        if problem := parse_problem(image):
            message = f"Failed to apply default image tag {name}: {problem}"
            say("Warning", "InspectFailed", message)
            raise ImageRefused("InvalidImageName", message)
        try:
            found = await self._runtime.image_status(image)
        except RuntimeRefused as error:
            message = f"Failed to inspect image {name}: {error.message}"
            say("Warning", "InspectFailed", message)
            raise ImageRefused("ImageInspectError", message) from error
        if found is not None and policy != "Always":
            say("Normal", "Pulled", f"Container image {name} already present on machine and can be accessed by the pod")
            return found
        if policy == "Never":
            message = f"Container image {name} is not present with pull policy of Never"
            say("Warning", "ErrImageNeverPull", message)
            raise ImageRefused("ErrImageNeverPull", message)
        return await self._pull(pod_key, image, auths, say)

    async def _pull(self, pod_key: str, image: str, auths: Sequence[RegistryAuth], say: Tell) -> Image:
        key, name = (pod_key, image), _quoted(image)
        self._tidy()
        if key in self._failed:
            entry, why = self._failed[key]
            wait = backoff.remaining(entry, entry.used, self._now())
            if wait > 0:
                message = f"Back-off pulling image {name}"
                say("Normal", "BackOff", message)
                raise ImageRefused("ImagePullBackOff", f"{message}: {why}", wait)
        asked = self._clock()
        say("Normal", "Pulling", f"Pulling image {name}")
        async with self._turn:
            begun = self._clock()
            why = await self._try(image, auths)
            ended = self._clock()
        found = await self._runtime.image_status(image) if not why else None
        if found is None:
            say("Warning", "Failed", f"Failed to pull image {name}: {why}")
            previous = self._failed.get(key)
            entry = backoff.following(previous[0] if previous else None, self._now(), self._now())
            self._failed[key] = (entry, f"ErrImagePull: {why}")
            raise ImageRefused("ErrImagePull", why, entry.delay)
        self._failed.pop(key, None)
        say(
            "Normal",
            "Pulled",
            f"Successfully pulled image {name} in {_spelt(ended - begun)} "
            f"({_spelt(ended - asked)} including waiting). Image size: {found.size} bytes.",
        )
        return found

    async def _try(self, image: str, auths: Sequence[RegistryAuth]) -> str:
        """What the registry refused, "" when it gave. Each credential is tried; the last refusal counts."""
        why = ""
        for auth in auths or (None,):
            try:
                await self._runtime.pull(image, auth)
            except RuntimeRefused as error:
                why = error.message
            else:
                return ""
        return why

    def _tidy(self) -> None:
        """Forget failures nobody has come back to for twice the cap."""
        now = self._now()
        for key, (entry, _) in list(self._failed.items()):
            if (now - entry.used).total_seconds() > 2 * backoff.CAP:
                del self._failed[key]


def _unheard(kind: str, reason: str, message: str) -> None: ...


def _spelt(seconds: float) -> str:
    """As Go prints a duration rounded to milliseconds."""
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
