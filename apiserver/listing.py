"""LIST: which objects, as of when, and how many at a time.

    resourceVersion   unset   the newest state
                      0       whatever the cache has; a limit is ignored, as upstream does
                      N       not older than N (waits up to 3 s, then 504); with a limit or Exact: exactly N
    continue                  the next page of exactly the state of the first page

A page token names the resource version of the first page and the last key that was sent. The state at that version is
rebuilt by walking the shelf's events backwards, so no snapshot is held for a client that never comes back. When the
events no longer reach back: 410, with a token that goes on in the newest state for whoever can live with that.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from apiserver import errors, fields
from apiserver.cache import (
    EVERYTHING,
    Bucket,
    Cache,
    Entry,
    Key,
    Shelf,
    bucket_of_namespace,
    bucket_of_node,
    bucket_of_object,
)
from apiserver.errors import StatusError
from apiserver.schema import ResourceInfo
from kube.selectors import FieldSelector, Selector, parse_fields, parse_labels

FRESH_WAIT: Final = 3.0
DIGITS: Final = 18  # of numbers that fit into 64 bits
MATCHED_AT_ONCE: Final = 2000
_TOKEN: Final = "meta.k8s.io/v1"
_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
NOT_TRUE: Final = frozenset({"", "0", "f", "F", "false", "FALSE", "False"})

EXPIRED_TOKEN: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class Options:
    """metav1.ListOptions, decoded."""

    labels: Selector
    fields: FieldSelector
    limit: int
    token: str
    rv: int | None
    match: str
    watch: bool
    bookmarks: bool
    initial_events: bool | None
    timeout: float | None

    @property
    def selecting(self) -> bool:
        return not self.labels.empty or bool(self.fields.terms)


@dataclass(frozen=True, slots=True)
class Page:
    entries: list[Entry]
    rv: int
    token: str = ""
    remaining: int | None = None

    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {"resourceVersion": str(self.rv)}
        if self.token:
            metadata["continue"] = self.token
        if self.token and self.remaining is not None:
            metadata["remainingItemCount"] = self.remaining
        return metadata


def flag(query: Mapping[str, str], name: str) -> bool:
    return _flag(query, name) or False


def _flag(query: Mapping[str, str], name: str) -> bool | None:
    value = query.get(name)
    if value is None:
        return None
    if value in _TRUE:
        return True
    if value in NOT_TRUE:
        return False
    raise errors.bad_request(f"{name}: {value!r} is not a boolean; write true or false")


def _number(query: Mapping[str, str], name: str) -> int:
    value = query.get(name) or "0"
    if not (value.isascii() and value.isdigit()) or len(value) > DIGITS:
        raise errors.bad_request(f"{name}: {value!r:.80} is not a whole number of 64 bits")
    return int(value)


def parse_rv(text: str | None) -> int | None:
    """None for unset."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise _invalid("resourceVersion", text, "strconv.ParseUint: parsing: invalid syntax")
    if len(text) > DIGITS:
        raise _invalid("resourceVersion", text[:80], "strconv.ParseUint: parsing: value out of range")
    return int(text)


def _invalid(name: str, value: object, detail: str) -> StatusError:
    cause = errors.cause(name, errors.INVALID, value, detail)
    return errors.invalid("meta.k8s.io", "ListOptions", "", [cause])


def options(query: Mapping[str, str], info: ResourceInfo) -> Options:
    """Raises 400 or 422 StatusErrors in upstream's words."""
    try:
        labels = parse_labels(query.get("labelSelector", ""))
        selected = parse_fields(query.get("fieldSelector", ""))
    except ValueError as error:
        raise errors.bad_request(str(error)) from error
    for path, _, _ in selected.terms:
        if path not in fields.labels(info.gvk):
            raise fields.unknown(info.gvk, path)
    seconds = _number(query, "timeoutSeconds")
    found = Options(
        labels=labels,
        fields=selected,
        limit=_number(query, "limit"),
        token=query.get("continue", ""),
        rv=parse_rv(query.get("resourceVersion")),
        match=query.get("resourceVersionMatch", ""),
        watch=flag(query, "watch"),
        bookmarks=flag(query, "allowWatchBookmarks"),
        initial_events=_flag(query, "sendInitialEvents"),
        timeout=float(seconds) if seconds else None,
    )
    _check(found)
    return found


def _check(asked: Options) -> None:
    """k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"""
    match = asked.match
    if asked.initial_events is not None:
        if not asked.watch:
            raise _forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list")
        if match != "NotOlderThan":
            raise _forbidden(
                "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            )
        return
    if not match:
        return
    if asked.watch:
        raise _forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )
    if asked.rv is None:
        raise _forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
    if asked.token:
        raise _forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
    if match not in {"Exact", "NotOlderThan"}:
        cause = errors.not_supported("resourceVersionMatch", match, ("Exact", "NotOlderThan", ""))
        raise errors.invalid("meta.k8s.io", "ListOptions", "", [cause])
    if match == "Exact" and asked.rv == 0:
        raise _forbidden("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"')


def _forbidden(name: str, detail: str) -> StatusError:
    cause = errors.cause(name, errors.FORBIDDEN, detail=detail)
    return errors.invalid("meta.k8s.io", "ListOptions", "", [cause])


def matcher(asked: Options, namespace: str | None) -> Callable[[Entry], bool]:
    """Whether a watcher or a list sees an entry."""
    labels, selected = asked.labels, asked.fields

    def matches(entry: Entry) -> bool:
        return (
            (namespace is None or entry.namespace == namespace)
            and labels.matches(entry.labels)
            and (not selected.terms or selected.matches(entry.fields))
        )

    return matches


def candidates(shelf: Shelf, asked: Options, namespace: str | None) -> Iterable[Entry]:
    """A superset of what the selectors select now, by the narrowest index."""
    name = asked.fields.required("metadata.name")
    if name is not None and namespace is not None:
        entry = shelf.get(namespace, name)
        return [entry] if entry else []
    node = asked.fields.required("spec.nodeName")
    if node:
        return shelf.on_node(node)
    return shelf.entries(namespace)


def bucket(asked: Options, namespace: str | None) -> Bucket:
    """Where the events are that a watch can select: as `candidates`, for what is to come."""
    name = asked.fields.required("metadata.name")
    if name is not None and namespace is not None:
        return bucket_of_object(namespace, name)
    node = asked.fields.required("spec.nodeName")
    if node:
        return bucket_of_node(node)
    return EVERYTHING if namespace is None else bucket_of_namespace(namespace)


async def fresh(cache: Cache, rv: int | None) -> None:
    """Raises 504 when the cache does not reach `rv` in time; None is what has been acknowledged until now."""
    if rv is None and cache.shared and not await cache.caught_up(FRESH_WAIT):
        raise errors.timeout("this server has not yet seen what others wrote", 1)
    if rv and not await cache.reached(rv, FRESH_WAIT):
        raise errors.too_large_resource_version(rv, cache.rv)


async def page(cache: Cache, prefix: str, asked: Options, namespace: str | None) -> Page:
    shelf = cache.shelf(prefix)
    if asked.token:
        return await _continued(cache, shelf, asked, namespace)
    await fresh(cache, asked.rv)
    exact = asked.rv and (asked.match == "Exact" or (asked.limit and not asked.match))
    if exact and asked.rv:
        found = await _as_of(shelf, asked, namespace, asked.rv, asked.limit)
        if found is None:
            raise errors.too_old_resource_version(asked.rv, shelf.floor)
        return found
    limit = 0 if asked.rv == 0 else asked.limit
    if asked.selecting:
        return await _selected(list(candidates(shelf, asked, namespace)), asked, namespace, cache.rv, limit)
    return await _newest(cache, shelf, asked, namespace, limit)


async def _continued(cache: Cache, shelf: Shelf, asked: Options, namespace: str | None) -> Page:
    if asked.rv:
        raise errors.bad_request("specifying resource version is not allowed when using continue")
    rv, start = _decode(asked.token)
    if rv < 0:
        return await _newest(cache, shelf, asked, namespace, asked.limit, start)
    found = await _as_of(shelf, asked, namespace, rv, asked.limit, start)
    if found is None:
        raise Inconsistent(errors.expired(EXPIRED_TOKEN), _encode(-1, start))
    return found


class Inconsistent(StatusError):
    """410 whose metadata carries a token that goes on in the newest state."""

    def __init__(self, error: StatusError, token: str) -> None:
        super().__init__(error.code, error.reason, error.message, error.details)
        self.token = token

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"metadata": {"continue": self.token}}


async def _newest(
    cache: Cache, shelf: Shelf, asked: Options, namespace: str | None, limit: int, start: Key | None = None
) -> Page:
    found = await _as_of(shelf, asked, namespace, cache.rv, limit, start)
    assert found is not None, "a shelf that does not reach to the newest state"
    return found


async def _as_of(
    shelf: Shelf, asked: Options, namespace: str | None, rv: int, limit: int, start: Key | None = None
) -> Page | None:
    """What is asked for of the state at `rv`, behind the key `start`; None when the events no longer reach back."""
    found = shelf.entries_at(rv, namespace, start, 0 if asked.selecting else limit)
    if found is None:
        return None
    entries, beyond = found
    if asked.selecting:
        return await _selected(entries, asked, namespace, rv, limit)
    return Page(entries, rv, _encode(rv, entries[-1].key), beyond) if beyond else Page(entries, rv)


async def _selected(entries: list[Entry], asked: Options, namespace: str | None, rv: int, limit: int) -> Page:
    """Selecting from many takes turns with others."""
    matches = matcher(asked, namespace)
    found: list[Entry] = []
    for first in range(0, len(entries), MATCHED_AT_ONCE):
        found += [entry for entry in entries[first : first + MATCHED_AT_ONCE] if matches(entry)]
        if limit and len(found) > limit:
            return Page(found[:limit], rv, _encode(rv, found[limit - 1].key))
        await asyncio.sleep(0)
    return Page(found, rv)


def _encode(rv: int, start: tuple[str, str]) -> str:
    token = {"v": _TOKEN, "rv": rv, "start": "/".join(start)}
    return base64.urlsafe_b64encode(orjson.dumps(token)).rstrip(b"=").decode()


def _decode(token: str) -> tuple[int, tuple[str, str]]:
    try:
        value = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        namespace, _, name = value["start"].partition("/")
        rv = value["rv"]
        valid = value["v"] == _TOKEN and isinstance(rv, int) and bool(name)
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
        valid, rv, namespace, name = False, 0, "", ""
    if not valid:
        raise errors.bad_request("continue key is not valid: it was not issued by this server")
    return rv, (namespace, name)


def watch_seconds(asked: Options) -> float:
    """timeoutSeconds, or upstream's random half to whole hour so that clients do not come back all at once."""
    return asked.timeout or random.uniform(1800.0, 3600.0)
