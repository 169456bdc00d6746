"""Answers under /api/.

Every answer's newest moment is read for it (one reading a second, shared with scrapes); older ones are the history's, as many as
are asked for and as there are. The reading goes into the history too, so that who polls gets rates while nothing is sampled.
"""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from kube.serving import Handler
from kube.version import WHERRY
from metrics.history import PARTS, Sampler, row
from metrics.jsontext import encoded
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

Read = Callable[[frozenset[Part]], Snapshot]


def routes(read: Read, sampler: Sampler) -> dict[str, Handler]:
    """By path; GET, and POST as cAdvisor's Go client has it for v1."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            value = await _answered(request, read, sampler)
        except Refused as refusal:
            return web.Response(status=refusal.status, text=f"{refusal}\n")
        return web.Response(body=encoded(value), content_type="application/json")

    return dict.fromkeys(
        ("/api", "/api/", "/api/{version}", "/api/{version}/{asked}", "/api/{version}/{asked}/{name:.*}"), answer
    )


async def _answered(request: web.Request, read: Read, sampler: Sampler) -> object:
    version, asked = request.match_info.get("version", ""), request.match_info.get("asked", "")
    if version == "versions" and not asked:
        return sorted(_VERSIONS)
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
    view = _View(snapshot, sampler, question)
    return view.first(asked, name) if first else view.second(asked, name, version)


class _View:
    """One question's snapshot and history."""

    def __init__(self, snapshot: Snapshot, sampler: Sampler, question: Question) -> None:
        self._snapshot = snapshot
        self._history = sampler.history
        self._question = question
        self._groups = Groups(snapshot)

    def first(self, asked: str, name: str) -> object:
        match asked:
            case "machine":
                return v1.machine(self._snapshot)
            case "containers":
                return self._container(self._named(name, asked))
            case "subcontainers":
                return [self._container(sample) for sample in self._groups.below(self._named(name, asked))]
            case _:
                found = [self._groups.aliased(name)] if name else self._groups.containers("docker")
                return {sample.path: self._container(sample) for sample in found}

    def second(self, asked: str, name: str, version: str) -> object:
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
                return v2.machine_stats(self._stats(root), root)
            case "spec":
                return {sample.path: v2.spec(sample) for sample in self._wanted(name)}
            case "summary":
                return {sample.path: v2.summary(self._moments(sample)) for sample in self._wanted(name)}
            case _ if version == "v2.0":
                return {s.path: v2.stats(self._stats(s), s, deprecated=True) for s in self._wanted(name)}
            case _:  # the root's are machinestats
                found = [sample for sample in self._wanted(name) if sample.kind != "root"]
                return {s.path: {"spec": v2.spec(s), "stats": v2.stats(self._stats(s), s)} for s in found}

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

    def _container(self, sample: Sample) -> Json:
        return v1.container(sample, self._groups.directly_below(sample), self._stats(sample))

    def _moments(self, sample: Sample) -> v2.Moments:
        """The history's, and the one just read."""
        past = [(when, values) for when, values in self._history.of(sample.path) if when < self._snapshot.when]
        return [*past, (self._snapshot.when, row(sample, self._snapshot))]

    def _stats(self, sample: Sample) -> list[Json]:
        moments = dict(self._moments(sample))
        newest = self._snapshot.when
        times = kept(moments, self._question)
        return [v1.stats(t, moments[t], sample, self._snapshot, newest=t == newest) for t in times]
