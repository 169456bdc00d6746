"""Where static pods come from: a directory or a file (`staticPodPath`), and a web server (`staticPodURL`).

    inotify (a hint), every fileCheckFrequency (the truth), every httpCheckFrequency
        -> each file, each answer -> `kubelet.observe.static` -> the whole set, told at once

A source that could not be read tells nothing: what it told before stays in force, and before its first telling nobody is
taken for an orphan. A file that became unreadable or wrong keeps the pod it last named (upstream kills it); what is wrong is
said once, in the log and in an Event about the Node. Of two files with the same pod the first by name wins.
(pkg/kubelet/config/{file,file_linux,http}.go)
"""

import asyncio
import errno
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import aiohttp
import yaml

from kube.errors import Invalid
from kube.reconcile import Wake
from kube.settings import one_line
from kubelet.config import without_userinfo
from kubelet.observe.static import StaticPod, static_pod
from linux.inotify import Inotify

log = logging.getLogger(__name__)

FILE, HTTP = "file", "http"
SETTLE = 0.05  # seconds that writing a file may take from its first change to its last
_LARGEST = 1 << 20  # bytes of a file or an answer; no API server takes a larger pod
_DEEPEST = 64  # levels of one thing within another; a Pod has about a dozen
_MOST = 1 << 17  # values in one document
_TOO_DEEP = f"more than {_DEEPEST} levels of one thing within another"
_FETCH_TIMEOUT = 10.0

Tell = Callable[[str, list[StaticPod]], None]
"""Takes the name of a source and all the pods it has."""


def parse(content: bytes) -> Any:
    """The one document of a YAML or JSON text. Raises Invalid."""
    try:
        documents = [document for document in yaml.safe_load_all(content) if document is not None]
    except RecursionError as error:
        raise Invalid(_TOO_DEEP) from error
    except KeyError as error:  # as PyYAML says that `!!bool x` is none
        raise Invalid(f"{error} is not what its tag says") from error
    except (yaml.YAMLError, ValueError) as error:  # `2024-13-45` is a date to YAML
        raise Invalid(one_line(error)) from error
    if len(documents) != 1:
        raise Invalid(f"{len(documents)} documents: write one Pod to a file")
    _check(documents[0])
    return documents[0]


def _check(document: Any) -> None:
    """Raises Invalid on what JSON, and so the API, cannot say. YAML's aliases can make a little text a cycle or a giant."""
    left, seen = [(document, 1)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if depth > _DEEPEST:
            raise Invalid(_TOO_DEEP)
        if seen > _MOST:
            raise Invalid(f"more than {_MOST} values: write out what its aliases stand for")
        match value:
            case dict():
                left += [(each, depth + 1) for pair in value.items() for each in pair]
            case list():
                left += [(each, depth + 1) for each in value]
            case set() | tuple() | bytes():
                raise Invalid(f"a {type(value).__name__}: write it without YAML's tag")
            case str() if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
                raise Invalid(f"{value!r} has half a character in it: write UTF-8")
            case int() if value.bit_length() > 64:
                raise Invalid("a number of more than 64 bits: put quotes around it if it is text")
            case float() if not math.isfinite(value):
                raise Invalid(f"{value} is no number to JSON: put quotes around it if it is text")


@dataclass(slots=True)
class _Known:
    """What a place held when it was last looked at, and the pod that it last named rightly."""

    content: bytes
    pod: StaticPod | None = None
    wrong: str = ""


@dataclass(slots=True)
class Reader:
    """Contents to pods, remembering what was told of each place."""

    node: str
    source: str
    complain: Callable[[str], None]
    clock: Callable[[], datetime]
    _known: dict[str, _Known] = field(default_factory=dict)
    _doubles: set[str] = field(default_factory=set)

    def read(self, contents: Mapping[str, bytes | OSError]) -> list[StaticPod]:
        """All the pods of all the places, sorted by place."""
        for gone in self._known.keys() - contents.keys():
            del self._known[gone]
        for place, content in sorted(contents.items()):
            if isinstance(content, OSError):
                self._wrong(place, self._known.setdefault(place, _Known(b"")), str(content.strerror))
            elif (known := self._known.get(place)) is None or known.content != content or known.wrong:
                self._decode(place, content)
        return self.distinct(known.pod for _, known in sorted(self._known.items()) if known.pod)

    def _decode(self, place: str, content: bytes) -> None:
        known = self._known.setdefault(place, _Known(content))
        known.content = content
        try:
            known.pod = static_pod(parse(content), self.node, place, self.source, self.clock())
            known.wrong = ""
        except Invalid as error:
            self._wrong(place, known, str(error))

    def _wrong(self, place: str, known: _Known, words: str) -> None:
        if known.wrong != words:
            known.wrong = words
            kept = "; the pod that was there before goes on" if known.pod else ""
            self.complain(f"static pod {place}: {words}{kept}")

    def distinct(self, pods: Iterable[StaticPod]) -> list[StaticPod]:
        found: dict[str, StaticPod] = {}
        doubles = set()
        for one in pods:
            first = found.setdefault(one.pod.metadata.key, one)
            if first is not one:
                words = f"static pod {one.origin}: pod {one.pod.metadata.key} is in {first.origin} already; remove one"
                doubles.add(words)
                if words not in self._doubles:
                    self.complain(words)
        self._doubles = doubles
        return list(found.values())


def contents(path: str) -> dict[str, bytes | OSError]:
    """The regular files of a directory, dotfiles apart, or the one file; nothing where there is nothing. Raises OSError when
    the place cannot be read: that is not an empty place."""
    try:
        if not os.path.isdir(path):
            return {path: _content(path)}
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except FileNotFoundError:
        return {}
    found: dict[str, bytes | OSError] = {}
    for name in names:
        place = os.path.join(path, name)
        try:
            if not _is_text(name):
                shown = os.fsencode(place).decode(errors="replace")
                found[shown] = OSError(errno.EILSEQ, "its name is not UTF-8: rename it")
            elif os.path.isfile(place):
                found[place] = _content(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            found[place] = error
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _content(place: str) -> bytes:
    with open(place, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, f"larger than {_LARGEST} bytes")
    return content


class Manifests:
    """A directory or a file of static pods."""

    def __init__(self, path: str, reader: Reader, tell: Tell, period: float) -> None:
        self._path = path
        self._reader = reader
        self._tell = tell
        self._period = period
        self._wake = Wake()

    async def run(self) -> None:
        """Until cancelled. Without inotify (no instances left) the period is all there is."""
        try:
            with Inotify(asyncio.get_running_loop(), self._wake.set) as inotify:
                await self._look_again_and_again(inotify)
        except OSError as error:
            log.warning("%s is looked at every %g s only: %s", self._path, self._period, error)
            await self._look_again_and_again(None)

    async def _look_again_and_again(self, inotify: Inotify | None) -> None:
        while True:
            if inotify is not None and not inotify.watch(self._path):
                inotify.watch(os.path.dirname(self._path))  # for the moment when it is made
            await self._look()
            if await self._wake.wait(self._period):
                await asyncio.sleep(SETTLE)

    async def _look(self) -> None:
        try:
            found = await asyncio.to_thread(contents, self._path)
        except OSError as error:
            self._reader.complain(f"staticPodPath {self._path}: {error.strerror}; its pods stay as they are")
            return
        self._tell(FILE, self._reader.read(found))


class Fetched:
    """Static pods from a web server: a Pod, or a list of them."""

    def __init__(
        self, url: str, headers: Mapping[str, tuple[str, ...]], reader: Reader, tell: Tell, period: float
    ) -> None:
        self._url = url
        self._shown = without_userinfo(url)
        self._headers = [(name, value) for name, values in headers.items() for value in values]
        self._reader = reader
        self._tell = tell
        self._period = period
        self._failing = False
        self._last = b""

    async def run(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(self._period)

    async def _content(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=_FETCH_TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._url, headers=self._headers) as answer,
        ):
            if answer.status != 200:
                raise Invalid(f"status {answer.status}")
            content = b""
            async for piece in answer.content.iter_any():
                content += piece
                if len(content) > _LARGEST:
                    raise Invalid(f"more than {_LARGEST} bytes")
        if not content:
            raise Invalid("an empty answer; an empty PodList says that there are no pods")
        return content

    async def _look(self) -> None:
        try:
            content = await self._content()
            if content != self._last:
                self._tell(HTTP, self._pods(content))
            self._last, self._failing = content, False
        except (aiohttp.ClientError, TimeoutError, OSError, Invalid) as error:
            if not self._failing:
                self._failing = True
                self._reader.complain(
                    f"staticPodURL {self._shown}: {str(error) or 'no answer'}; its pods stay as they are"
                )

    def _pods(self, content: bytes) -> list[StaticPod]:
        document = parse(content)
        listed = isinstance(document, dict) and document.get("kind") in ("PodList", "List")
        items = document.get("items") or [] if listed else [document]
        if not isinstance(items, list):
            raise Invalid("items: required, as a list of Pods")
        reader = self._reader
        return reader.distinct(static_pod(item, reader.node, self._url, HTTP, reader.clock()) for item in items)
