"""The one loop: nothing is lost, nothing runs twice at once, failures come again."""

import asyncio

import pytest

from kube.errors import Invalid, Retry
from kube.reconcile import Backoff, Keys, Wake, by_key, forever

FAST = Backoff(first=0.001, most=0.002)


async def until(condition: object, seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.001)


async def test_forever_runs_at_once_and_after_each_wake() -> None:
    passes = 0

    async def sync() -> None:
        nonlocal passes
        passes += 1

    wake = Wake()
    task = asyncio.get_running_loop().create_task(forever(sync, wake, resync=60))
    await until(lambda: passes == 1)
    wake.set()
    wake.set()
    await until(lambda: passes == 2)
    task.cancel()


async def test_forever_goes_on_after_a_refusal_and_after_an_invalid_object() -> None:
    seen: list[str] = []
    failures = [Retry("not yet"), OSError("refused"), Invalid("nonsense"), None]

    async def sync() -> float | None:
        failure = failures[len(seen)]
        seen.append(str(failure))
        if failure:
            raise failure
        return None if len(seen) == len(failures) else 0.0

    task = asyncio.get_running_loop().create_task(forever(sync, Wake(), resync=0.001, backoff=FAST))
    await until(lambda: len(seen) == 4)
    task.cancel()


async def test_a_bug_ends_the_loop() -> None:
    async def sync() -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        await forever(sync, Wake(), resync=60)


async def test_a_key_added_while_its_pass_runs_gets_exactly_one_more() -> None:
    keys: Keys[str] = Keys()
    running = 0
    most = 0
    passes = 0
    gate = asyncio.Event()

    async def sync(_key: str) -> None:
        nonlocal running, most, passes
        running += 1
        most = max(most, running)
        passes += 1
        await gate.wait()
        running -= 1

    task = asyncio.get_running_loop().create_task(by_key(sync, keys, workers=3))
    keys.add("a")
    await until(lambda: passes == 1)
    keys.add("a")
    keys.add("a")
    gate.set()
    await until(lambda: passes == 2 and running == 0)
    assert most == 1
    assert len(keys) == 0
    task.cancel()


async def test_different_keys_run_side_by_side_and_a_failed_one_comes_again() -> None:
    keys: Keys[str] = Keys()
    tries: dict[str, int] = {}

    async def sync(key: str) -> None:
        tries[key] = tries.get(key, 0) + 1
        if key == "bad" and tries[key] < 4:
            raise Retry("still bad")

    task = asyncio.get_running_loop().create_task(by_key(sync, keys, workers=2, backoff=FAST))
    for key in ("good", "bad", "other"):
        keys.add(key)
    await until(lambda: tries == {"good": 1, "bad": 4, "other": 1})
    task.cancel()


async def test_an_earlier_request_wins_over_a_later_one() -> None:
    keys: Keys[str] = Keys()
    keys.add("a", after=30)
    keys.add("a")
    keys.add("a", after=60)
    async with asyncio.timeout(1):
        assert await keys.take() == "a"
    keys.done("a")
    assert len(keys) == 0


def test_backoff_doubles_to_its_most() -> None:
    plain = Backoff(first=1, most=10, jitter=0)
    assert [plain.delay(n) for n in range(6)] == [0, 1, 2, 4, 8, 10]


async def test_a_group_of_refusals_is_a_refusal_and_one_with_a_bug_in_it_is_a_bug() -> None:
    failures: list[Exception] = [
        ExceptionGroup("tasks", [Retry("one"), ExceptionGroup("more", [OSError("two")])]),
        ExceptionGroup("tasks", [Retry("one"), KeyError("a bug")]),
    ]

    async def sync() -> float | None:
        raise failures.pop(0)

    with pytest.raises(ExceptionGroup) as caught:
        await forever(sync, Wake(), resync=60, backoff=FAST)
    assert not failures
    assert caught.value.subgroup(KeyError)


async def test_a_wake_does_not_shorten_the_back_off_of_the_whole_node() -> None:
    moments: list[float] = []
    wake = Wake()

    async def sync() -> None:
        moments.append(asyncio.get_running_loop().time())
        if len(moments) == 1:
            wake.set()
            raise Retry("not yet")

    task = asyncio.get_running_loop().create_task(
        forever(sync, wake, resync=60, backoff=Backoff(first=0.2, most=0.2, jitter=0))
    )
    await until(lambda: len(moments) >= 2)  # the wake's own pass may follow before anybody looks
    task.cancel()
    assert moments[1] - moments[0] >= 0.19


async def test_a_key_that_changes_while_it_is_backed_off_is_tried_at_once() -> None:
    keys: Keys[str] = Keys()
    passes = 0

    async def sync(_key: str) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            raise Retry("not yet")

    task = asyncio.get_running_loop().create_task(by_key(sync, keys, backoff=Backoff(first=60, most=60)))
    keys.add("a")
    await until(lambda: passes == 1 and len(keys) == 1)
    keys.add("a")
    await until(lambda: passes == 2)
    await until(lambda: len(keys) == 0)
    task.cancel()


async def test_a_pass_that_always_wakes_itself_leaves_room_for_others() -> None:
    wake = Wake()

    async def sync() -> None:
        wake.set()

    task = asyncio.get_running_loop().create_task(forever(sync, wake, resync=60))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_every_key_gets_its_turn_beside_one_that_never_rests() -> None:
    keys: Keys[int] = Keys()
    seen: set[int] = set()

    async def sync(key: int) -> float | None:
        seen.add(key)
        return 0.0 if key == 0 else None

    task = asyncio.get_running_loop().create_task(by_key(sync, keys, workers=1))
    for key in range(50):
        keys.add(key)
    await until(lambda: len(seen) == 50)
    task.cancel()


async def test_cancelled_in_the_middle_of_a_pass_it_ends() -> None:
    keys: Keys[str] = Keys()
    begun = asyncio.Event()

    async def sync(_key: str) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(by_key(sync, keys))
    keys.add("a")
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(keys) == 0
