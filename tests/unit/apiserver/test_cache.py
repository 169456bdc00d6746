"""The watch cache alone: who waits for it, and pages of a state that is past."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apiserver.cache import Cache, Key, Shelf


async def test_nobody_waits_who_has_gone() -> None:
    cache = Cache({})
    assert not await cache.reached(5, 0.0)
    loop = asyncio.get_running_loop()
    gone = [loop.create_task(cache.reached(rv)) for rv in (7, 5, 7)]
    await asyncio.sleep(0)
    gone[0].cancel()
    gone[1].cancel()
    for one in gone[:2]:
        with pytest.raises(asyncio.CancelledError):
            await one
    assert [rv for rv, _ in cache._waiting] == [7]
    cache.rv = 7
    cache._progress(0)
    assert await gone[2]
    assert not cache._waiting


def stored(key: Key) -> bytes:
    obj: dict[str, Any] = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"namespace": key[0], "name": key[1]}}
    return orjson.dumps(obj)


_KEYS = st.tuples(st.sampled_from(["a", "a-b", "b", "c"]), st.sampled_from("klmnop"))
_CHANGES = st.lists(st.tuples(_KEYS, st.booleans()), max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    _CHANGES,
    _CHANGES,
    st.none() | st.sampled_from(["a", "b", "z"]),
    st.none() | _KEYS,
    st.integers(min_value=0, max_value=6),
)
def test_a_page_of_the_past_is_cut_from_the_whole_of_it(
    before: list[tuple[Key, bool]], after: list[tuple[Key, bool]], namespace: str | None, start: Key | None, limit: int
) -> None:
    shelf = Shelf(lambda _: {}, 0)
    rv = 0
    state: dict[Key, int] = {}
    for key, put in before:
        rv += 1
        shelf.apply(key, stored(key) if put else None, rv)
        state.pop(key, None)
        if put:
            state[key] = rv
    for later, (key, put) in enumerate(after, rv + 1):
        shelf.apply(key, stored(key) if put else None, later)
    wanted = [
        (key, state[key])
        for key in sorted(state)
        if (namespace is None or key[0] == namespace) and (start is None or key > start)
    ]
    found = shelf.entries_at(rv, namespace, start, limit)
    assert found is not None
    entries, beyond = found
    assert [(entry.key, entry.rv) for entry in entries] == (wanted[:limit] if limit else wanted)
    assert beyond == len(wanted) - len(entries)
