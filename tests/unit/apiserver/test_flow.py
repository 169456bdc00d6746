"""Flow control: turns, queues, fairness."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from apiserver import flow
from apiserver.access_figures import AccessFigures
from apiserver.authentication import User
from apiserver.authorization import Attributes
from apiserver.errors import StatusError
from apiserver.flow import Level, Turn
from kube.errors import UsageError
from tests.unit.apiserver.test_tokens import World


async def outcome(turn: Turn) -> str:
    """`held`, until it is cancelled, or the reason of the refusal."""
    try:
        await turn.wait()
        await asyncio.Event().wait()
    except StatusError as refused:
        return refused.reason
    finally:
        turn.leave()
    return "held"


def running(level: Level, user: str, count: int, width: int = 1) -> list[Turn]:
    turns = [level.enter(user, width) for _ in range(count)]
    assert all(turn.running for turn in turns)
    return turns


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_whoever_finds_room_runs_at_once() -> None:
    level = Level("l", 10, turns=3)
    turns = running(level, "a", 3)
    assert (level.taken, level.waiting) == (3, 0)
    for turn in turns:
        turn.leave()
    assert (level.taken, level.running, level.users()) == (0, 0, 0)


def test_a_turn_goes_to_who_had_least() -> None:
    async def scenario() -> None:
        level = Level("l", 100, turns=4)
        hot = running(level, "hot", 4)
        waiting = [level.enter("hot", 1) for _ in range(20)]
        assert not any(turn.running for turn in waiting)
        assert all(turn.running for turn in (level.enter("polite", 1), level.enter("polite", 1)))  # SPARE
        third = level.enter("polite", 1)
        assert not third.running
        hot[0].leave()
        hot[1].leave()
        hot[2].leave()  # six ran on four turns: now one is free
        await settled()
        assert third.running
        assert not any(turn.running for turn in waiting)

    asyncio.run(scenario())


def test_turns_are_shared_alike() -> None:
    """Users with 50, 20 and 10 requests that wait: of the first 30 turns each gets about ten."""

    async def scenario() -> None:
        level = Level("l", 0, turns=2)
        blockers = running(level, "x", 2)
        order: list[str] = []

        async def request(user: str) -> None:
            turn = level.enter(user, 1)
            try:
                await turn.wait()
                order.append(user)
                await asyncio.sleep(0)
            finally:
                turn.leave()

        wishes = ["a"] * 50 + ["b"] * 20 + ["c"] * 10
        random.Random(1).shuffle(wishes)
        spare = [level.enter(user, 1) for user in "abc" for _ in range(flow.SPARE)]  # nobody has a head start
        async with asyncio.TaskGroup() as group:
            for user in wishes:
                group.create_task(request(user))
            await settled()
            assert not order
            for turn in (*blockers, *spare):
                turn.leave()
        assert len(order) == 80
        shares = Counter(order[:30])
        assert all(7 <= shares[user] <= 14 for user in "abc"), shares
        assert (level.taken, level.running, level.waiting, level.users()) == (0, 0, 0, 0)

    asyncio.run(scenario())


def test_wide_requests_take_several_turns() -> None:
    async def scenario() -> None:
        level = Level("l", 0, turns=10)
        wide = [level.enter("a", 4), level.enter("a", 4), level.enter("a", 4)]
        assert [turn.running for turn in wide] == [True, True, False]
        wide[0].leave()
        await settled()
        assert wide[2].running
        assert level.taken == 8

    asyncio.run(scenario())


def test_when_full_the_longest_queue_pays() -> None:
    async def scenario() -> None:
        level = Level("l", 8, turns=4)
        running(level, "hot", 4)
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(outcome(level.enter("hot", 1))) for _ in range(4)]
            await settled()
            assert level.running + level.waiting == 8
            with pytest.raises(StatusError, match="Too many requests") as refused:
                level.enter("hot", 1)
            assert (refused.value.code, refused.value.headers) == (429, {"Retry-After": "1"})
            polite = level.enter("polite", 1)
            assert polite.running
            await settled()
            assert [task.done() for task in waiting] == [False, False, False, True]
            assert waiting[3].result() == "TooManyRequests"
            assert level.rejected["queue-full"] == 2
            for task in waiting:
                task.cancel()
        assert (level.running, level.waiting) == (5, 0)

    asyncio.run(scenario())


def test_nobody_waits_for_ever() -> None:
    async def scenario() -> None:
        level = Level("l", 0, turns=2, patience=0.01)
        held = running(level, "a", 2)
        turn = level.enter("a", 1)
        with pytest.raises(StatusError) as refused:
            await turn.wait()
        turn.leave()
        assert refused.value.code == 429
        assert (level.waiting, level.rejected["time-out"]) == (0, 1)
        for one in held:
            one.leave()
        assert (level.taken, level.users()) == (0, 0)

    asyncio.run(scenario())


def test_a_client_that_is_gone_leaves_its_place() -> None:
    async def scenario() -> None:
        level = Level("l", 0, turns=2)
        held = running(level, "a", 2)

        async def request(turn: Turn) -> None:
            try:
                await turn.wait()
            finally:
                turn.leave()

        async with asyncio.TaskGroup() as group:
            gone, stays = (group.create_task(request(level.enter("a", 1))) for _ in range(2))
            await settled()
            gone.cancel()
            held[0].leave()  # before the one that is gone has noticed: the turn goes to the next
            await settled()
            assert (gone.cancelled(), stays.done()) == (True, True)
        held[1].leave()
        assert (level.taken, level.running, level.waiting, level.users()) == (0, 0, 0, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_in_any_order(seed: int) -> None:
    """Requests of four users with random widths and lives, some cancelled: at the end all is free again."""

    async def scenario() -> None:
        rng = random.Random(seed)
        level = Level("l", rng.choice((0, 5, 20)), turns=rng.choice((1, 3, 8)), patience=5)
        most = 0

        async def request() -> None:
            nonlocal most
            try:
                turn = level.enter(rng.choice("abcd"), rng.choice((1, 1, 1, 3)))
            except StatusError:
                return
            try:
                await turn.wait()
                most = max(most, level.running)
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
            except StatusError:
                pass
            finally:
                turn.leave()

        tasks = []
        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                tasks.append(group.create_task(request()))
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
                if rng.random() < 0.1:
                    rng.choice(tasks).cancel()
        assert (level.taken, level.running, level.waiting, level.users()) == (0, 0, 0, 0)
        assert most <= level.turns + 4 * flow.SPARE

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (Attributes(User("u"), "list", resource="pods"), "readOnly"),
        (Attributes(User("u"), "get", path="/api"), "readOnly"),
        (Attributes(User("u"), "create", resource="pods"), "mutating"),
        (Attributes(User("u"), "create", resource="pods", subresource="eviction"), "mutating"),
        (Attributes(User("u"), "post", path="/x"), "mutating"),
        (Attributes(User("u", ("system:masters",)), "create", resource="pods"), None),
        (Attributes(User("u"), "watch", resource="pods"), None),
        (Attributes(User("u"), "get", resource="pods", subresource="log"), None),
        (Attributes(User("u"), "create", resource="pods", subresource="exec"), None),
        (Attributes(User("u"), "get", path="/readyz/etcd"), None),
    ],
)
def test_who_is_exempt(asked: Attributes, kind: str | None) -> None:
    turn = flow.flow(5, 5, lambda _: 1).enter(asked)
    assert (turn.level.name if turn else None) == kind


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(UsageError, match="--max-mutating-requests-inflight: -1"):
        flow.flow(0, -1, lambda _: 1)


def test_a_long_list_is_wide() -> None:
    sized = flow.flow(0, 0, lambda asked: {"pods": 5000, "nodes": 3}[asked.resource])
    widths = [sized.enter(Attributes(User("u"), "list", resource=one)) for one in ("pods", "nodes")]
    assert [turn.width for turn in widths if turn] == [10, 1]


def test_figures_under_upstreams_names() -> None:
    async def scenario() -> None:
        turns = flow.flow(0, 0, lambda _: 1)
        turns.writing.turns = 2
        turns.writing.enter("a", 1).leave()
        for _ in range(4):
            turns.writing.enter("a", 1)
        registry = CollectorRegistry()
        registry.register(AccessFigures(turns, World().tokens(), None))
        lines = generate_latest(registry).decode().splitlines()
        level = 'flow_schema="global-default",priority_level="mutating"'
        assert f"apiserver_flowcontrol_current_executing_requests{{{level}}} 2.0" in lines
        assert f"apiserver_flowcontrol_current_inqueue_requests{{{level}}} 2.0" in lines
        assert f"apiserver_flowcontrol_dispatched_requests_total{{{level}}} 3.0" in lines
        assert f'apiserver_flowcontrol_rejected_requests_total{{{level},reason="time-out"}} 0.0' in lines
        assert 'apiserver_current_inflight_requests{request_kind="mutating"} 2.0' in lines
        assert "serviceaccount_stale_tokens_total 0.0" in lines

    asyncio.run(scenario())
