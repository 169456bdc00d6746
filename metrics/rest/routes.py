"""Answers under /api/.

Every answer's newest moment is read for it (one reading a second, shared with scrapes); older ones are the history's, as many as
are asked for and as there are. The reading goes into the history too, so that who polls gets rates while nothing is sampled.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from aiohttp import web

from kube.serving import Handler
from kube.version import WHERRY
from metrics.history import PARTS, Frame, Sampler, row
from metrics.jsontext import encoded, part
from metrics.model import Part, Sample, Snapshot
from metrics.rest import v1, v2
from metrics.rest.questions import Groups, Question, Refused, from_body, from_query, kept
from metrics.rest.v1 import Json

_V1 = {
    "v1.0": ("containers", "machine"),
    "v1.1": ("containers", "machine", "subcontainers"),
    "v1.2": ("containers", "docker", "machine", "subcontainers"),
    "v1.3": ("containers", "docker", "machine", "subcontainers"),
}
_V2 = ("attributes", "machine", "spec", "stats", "storage", "summary", "version")
_VERSIONS: Mapping[str, tuple[str, ...]] = {**_V1, "v2.0": _V2, "v2.1": (*_V2, "machinestats")}

_EVERY_PART = PARTS | {Part.MEMORY_PEAK, Part.PROCESSES, Part.LAYERS, Part.FILESYSTEMS}
_MACHINE = frozenset({Part.FILESYSTEMS})

_MOST, _MOST_SUMMED = 20_000, 200_000
"""Moments of all groups together that one answer has, or a summary looks at."""

Read = Callable[[frozenset[Part]], Snapshot]


def routes(read: Read, sampler: Sampler) -> dict[str, Handler]:
    """By path; GET, and POST as cAdvisor's Go client has it for v1."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            write = await _asked(request, read, sampler)
            body = await asyncio.to_thread(lambda: encoded(write()))  # of a thousand groups that takes seconds
        except Refused as refusal:
            return web.Response(status=refusal.status, text=f"{refusal}\n")
        return web.Response(body=body, content_type="application/json")

    return dict.fromkeys(
        ("/api", "/api/", "/api/{version}", "/api/{version}/{asked}", "/api/{version}/{asked}/{name:.*}"), answer
    )


async def _asked(request: web.Request, read: Read, sampler: Sampler) -> Callable[[], object]:
    """What gives the answer, in a thread: all that changes meanwhile has been looked at."""
    version, asked = request.match_info.get("version", ""), request.match_info.get("asked", "")
    if version == "versions" and not asked:
        return lambda: sorted(_VERSIONS)
    if not version:
        raise Refused(f"Supported API versions: {','.join(sorted(_VERSIONS))}")
    if version not in _VERSIONS:
        raise Refused(f'unsupported API version "{version}"', 404)
    kinds = _VERSIONS[version]
    if not asked:
        raise Refused(f'Supported request types: "{",".join(sorted(kinds))}"')
    if asked not in kinds:
        raise Refused(f'unknown request type "{asked}"; there are {", ".join(sorted(kinds))}', 404)
    first = version in _V1
    question = from_body(await request.read()) if first else from_query(request.query)
    static = asked in ("machine", "attributes", "storage", "version")
    snapshot = await asyncio.to_thread(read, _MACHINE if static else _EVERY_PART)
    if not static:
        sampler.history.add(snapshot)
    name = request.match_info.get("name", "").strip("/")
    frames = sampler.history.since(0.0)
    return lambda: _View(snapshot, frames, question).answer(version, asked, name)


class _View:
    """One question's snapshot and history."""

    def __init__(self, snapshot: Snapshot, frames: Sequence[Frame], question: Question) -> None:
        self._snapshot = snapshot
        self._frames = [frame for frame in frames if frame.when < snapshot.when]
        self._question = question
        self._groups = Groups(snapshot)

    def answer(self, version: str, asked: str, name: str) -> object:
        return self._first(asked, name) if version in _V1 else self._second(asked, name, version)

    def _first(self, asked: str, name: str) -> object:
        match asked:
            case "machine":
                return v1.machine(self._snapshot)
            case "containers":
                return next(self._containers([self._named(name, asked)]))
            case "subcontainers":
                return list(self._containers(self._groups.below(self._named(name, asked))))
            case _:
                found = [self._groups.aliased(name)] if name else self._groups.containers("docker")
                return {sample.path: one for sample, one in zip(found, self._containers(found), strict=True)}

    def _second(self, asked: str, name: str, version: str) -> object:
        match asked:
            case "version":
                return WHERRY
            case "attributes":
                return v2.attributes(self._snapshot, WHERRY)
            case "machine":
                return v1.machine(self._snapshot)
            case "storage":
                return v2.storage(self._snapshot)
            case "machinestats":
                root = self._groups.named("/")
                return v2.machine_stats(next(self._stats([root])), root)
            case "spec":
                return {sample.path: v2.spec(sample) for sample in self._wanted(name)}
            case "summary":
                found = self._wanted(name)
                frames = self._frames[-max(1, _MOST_SUMMED // max(1, len(found))) :]
                return {sample.path: v2.summary(self._moments(sample, frames)) for sample in found}
            case _ if version == "v2.0":
                found = self._wanted(name)
                both = zip(found, self._stats(found), strict=True)
                return {sample.path: part(v2.stats(stats, sample, deprecated=True)) for sample, stats in both}
            case _:  # the root's are machinestats
                found = [sample for sample in self._wanted(name) if sample.kind != "root"]
                both = zip(found, self._stats(found), strict=True)
                return {s.path: part({"spec": v2.spec(s), "stats": v2.stats(stats, s)}) for s, stats in both}

    def _named(self, name: str, asked: str) -> Sample:
        try:
            return self._groups.named(f"/{name}")
        except Refused as refusal:
            what = "get container" if asked == "containers" else "get subcontainers for container"
            raise Refused(f'failed to {what} "/{name}" with error: {refusal}', refusal.status) from None

    def _wanted(self, name: str) -> list[Sample]:
        question, groups = self._question, self._groups
        if question.by_alias:
            return [groups.aliased(name)] if name else groups.containers("docker")
        top = groups.named(f"/{name}")
        return groups.below(top) if question.recursive else [top]

    def _containers(self, found: list[Sample]) -> Iterator[object]:
        for sample, stats in zip(found, self._stats(found), strict=True):
            yield part(v1.container(sample, self._groups.directly_below(sample), stats))

    def _moments(self, sample: Sample, frames: Sequence[Frame]) -> v2.Moments:
        """Those of the history, and the one just read."""
        past = [(frame.when, values) for frame in frames if (values := frame.row(sample.path)) is not None]
        return [*past, (self._snapshot.when, row(sample, self._snapshot))]

    def _stats(self, found: list[Sample]) -> Iterator[list[Json]]:
        """Each group's, of the moments that are asked for; fewer, the newest, where the groups are very many."""
        newest = self._snapshot.when
        times = set(
            kept([*(frame.when for frame in self._frames), newest], self._question, _MOST // max(1, len(found)))
        )
        frames = [frame for frame in self._frames if frame.when in times]
        for sample in found:
            moments = (one for one in self._moments(sample, frames) if one[0] in times)
            yield [v1.stats(when, values, sample, self._snapshot, newest=when == newest) for when, values in moments]
