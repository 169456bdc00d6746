"""Whether a container's image is there, and getting it where it is not (upstream: pkg/kubelet/images/image_manager.go).

    policy         there            absent
    Always         pull             pull
    IfNotPresent   use              pull
    Never          use              ErrImageNeverPull

A pull that failed is not tried again before 10 s, then 20 s, up to 5 minutes; meanwhile the container waits with
ImagePullBackOff and the words of the failure. Pulls come one after the other (serializeImagePulls), or so many at a time, and
so many a second (registryPullQPS): where upstream refuses a pull that comes too soon ("pull QPS exceeded"), here it waits.
Who had to wait, and finds that somebody else has pulled the image meanwhile, uses that. Always with an image that no
registry has, as on a machine that builds its own, fails as it does upstream.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

from kubelet import backoff
from kubelet.runtime import Image, RegistryAuth, Runtime, RuntimeRefused

# Event type, reason, message.
Tell = Callable[[str, str, str], None]
Credentials = Callable[[str], Awaitable[Sequence[RegistryAuth]]]  # of an image, besides the pod's own

_A_MOMENT = 0.01  # seconds in which nobody else can have pulled an image

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many pulls at a time, how many a second (0: as many as there are) and how many of those at once."""

    at_once: int = 1  # 0: no limit
    per_second: float = 5.0
    burst: int = 10


class _Turns:
    """Who pulls now. First come, first served."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self._pace = pace
        self._clock = clock
        self._slots = asyncio.Semaphore(pace.at_once) if pace.at_once else None
        self._tokens, self._filled = float(pace.burst), clock()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        async with self._slots or nullcontext():
            if self._pace.per_second > 0:
                await asyncio.sleep(self._take())
            yield

    def _take(self) -> float:
        """Take a token, if need be one that is not there yet; the seconds until it is."""
        now = self._clock()
        self._tokens = min(self._pace.burst, self._tokens + (now - self._filled) * self._pace.per_second)
        self._filled = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self._pace.per_second)


class Images:
    """One a kubelet: it remembers failed pulls. `pulled` is told the size of an image and the seconds it took."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        pace: Pace = Pace(),
        credentials: Credentials | None = None,
        pulled: Callable[[int, float], None] | None = None,
    ) -> None:
        self._runtime = runtime
        self._now = now
        self._clock = clock
        self._failed: dict[tuple[str, str], tuple[backoff.Entry, str]] = {}
        self._turns = _Turns(pace, clock)
        self._credentials = credentials
        self._pulled = pulled

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
        found = await self._look(image, say)
        if found is not None and policy != "Always":
            say("Normal", "Pulled", f"Container image {name} already present on machine and can be accessed by the pod")
            return found
        if policy == "Never":
            message = f"Container image {name} is not present with pull policy of Never"
            say("Warning", "ErrImageNeverPull", message)
            raise ImageRefused("ErrImageNeverPull", message)
        return await self._pull(pod_key, image, policy, auths, say)

    async def _look(self, image: str, say: Tell) -> Image | None:
        try:
            return await self._runtime.image_status(image)
        except RuntimeRefused as error:
            message = f"Failed to inspect image {_quoted(image)}: {error.message}"
            say("Warning", "InspectFailed", message)
            raise ImageRefused("ImageInspectError", message) from error

    async def _pull(self, pod_key: str, image: str, policy: str, auths: Sequence[RegistryAuth], say: Tell) -> Image:
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
        async with self._turns.one():
            begun = self._clock()
            waited = begun - asked > _A_MOMENT
            found = await self._look(image, say) if waited and policy != "Always" else None
            if found is not None:  # pulled for another pod while we waited
                self._failed.pop(key, None)
                say(
                    "Normal",
                    "Pulled",
                    f"Container image {name} already present on machine and can be accessed by the pod",
                )
                return found
            why = await self._try(image, auths)
            ended = self._clock()
        found = await self._look(image, say) if not why else None
        if found is None:
            reason, why = judged(image, why or f"image {name} was pulled and is not there")
            say("Warning", "Failed", f"Failed to pull image {name}: {why}")
            previous = self._failed.get(key)
            entry = backoff.following(previous[0] if previous else None, self._now(), self._now())
            self._failed[key] = (entry, f"{reason}: {why}")
            raise ImageRefused(reason, why, entry.delay)
        self._failed.pop(key, None)
        if self._pulled is not None:
            self._pulled(found.size, ended - begun)
        say(
            "Normal",
            "Pulled",
            f"Successfully pulled image {name} in {_spelt(ended - begun)} "
            f"({_spelt(ended - asked)} including waiting). Image size: {found.size} bytes.",
        )
        return found

    async def _try(self, image: str, auths: Sequence[RegistryAuth]) -> str:
        """What the registry refused, "" when it gave. Each credential is tried; the last refusal counts."""
        more = await self._credentials(image) if self._credentials is not None else ()
        why = ""
        for auth in (*auths, *more) or (None,):
            try:
                await self._runtime.pull(image, auth)
            except RuntimeRefused as error:
                why = error.message or "the runtime gives no reason"
            else:
                return ""
        return why

    def _tidy(self) -> None:
        """Forget failures nobody has come back to for twice the cap."""
        now = self._now()
        for key, (entry, _) in list(self._failed.items()):
            if (now - entry.used).total_seconds() > 2 * backoff.CAP:
                del self._failed[key]


def judged(image: str, why: str) -> tuple[str, str]:
    """The waiting reason of a pull that failed and its message: runtimes name two causes in their errors' first word."""
    for reason, words in (
        ("RegistryUnavailable", "the registry is unavailable"),
        ("SignatureValidationFailed", "the signature validation failed"),
    ):
        if why.startswith(reason):
            return reason, f"image pull failed for {image} because {words}{why.removeprefix(reason)}"
    return "ErrImagePull", why


def _unheard(kind: str, reason: str, message: str) -> None: ...


def _spelt(seconds: float) -> str:
    """As Go prints a duration rounded to milliseconds."""
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
