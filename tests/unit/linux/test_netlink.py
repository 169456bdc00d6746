"""Conversations with the kernel as far as an unprivileged process may hold them: questions, and orders that are refused."""

import asyncio
import errno
import struct
from collections.abc import Iterator

import pytest

from linux.netlink import AT_ONCE, Conversation, RefusedError, Request, too_fast
from linux.turns import gathered, whole
from linux.wire import attribute, attributes, messages, nest, text

_NOWHERE = 0x7FFFFFFF
_GETLINK, _SETLINK = 18, 19
_LINK = struct.Struct("=BxHiII")


def set_up(index: int, tolerated: frozenset[int] = frozenset()) -> Request:
    return Request(_SETLINK, 0, _LINK.pack(0, 0, index, 1, 1), "set {} up", (f"link {index}",), tolerated)


def test_a_batch_names_each_that_was_refused() -> None:
    orders = [set_up(_NOWHERE - number) for number in range(2 * AT_ONCE + 7)]
    with Conversation() as ip:
        turns = list(ip.carry_out(orders))
        assert [len(turn) for turn in turns] == [AT_ONCE, AT_ONCE, 7]
        refused = [one for turn in turns for one in turn]
        assert [at for at, _ in refused] == list(range(len(orders)))
        assert f"cannot set link {_NOWHERE - 206} up: " in str(refused[206][1])
        assert refused[0][1].errno in {errno.ENODEV, errno.EPERM}
        assert list(ip.carry_out([])) == []


def test_what_is_tolerated_was_done_already() -> None:
    harmless = frozenset([errno.ENODEV, errno.EPERM])
    orders = [set_up(_NOWHERE, harmless), set_up(_NOWHERE), set_up(_NOWHERE, harmless)]
    with Conversation() as ip:
        assert [at for turn in ip.carry_out(orders) for at, _ in turn] == [1]
        ip.order(orders[0])
        with pytest.raises(RefusedError, match=f"cannot set link {_NOWHERE} up"):
            ip.order(orders[1])
        assert len(ip.ask(_GETLINK, 0, _LINK.pack(0, 0, 1, 0, 0), "look at the first link")) == 1, "still in step"


def test_a_table_in_turns_is_the_table_at_once() -> None:
    asked = _LINK.pack(0, 0, 0, 0, 0)
    with Conversation() as ip:
        at_once = ip.dump(_GETLINK, asked, "list the links")
        in_turns = [data[start:end] for data, places in ip.turns(_GETLINK, asked, "list") for start, end in places]
    assert [one[:8] for one in at_once] == [one[:8] for one in in_turns]
    assert len(at_once) >= 1


def test_a_table_that_changes_is_asked_for_again_and_not_for_ever() -> None:
    asked: list[int] = []

    def turns(broken: int) -> Iterator[list[int]]:
        asked.append(0)
        yield [1]
        if len(asked) <= broken:
            raise InterruptedError
        yield [2]

    assert asyncio.run(whole(lambda: turns(2), "read it")) == [1, 2]
    assert len(asked) == 3
    with pytest.raises(RefusedError, match="cannot read it: it changes faster than it can be read") as refused:
        asyncio.run(whole(lambda: turns(100), "read it"))
    assert refused.value.errno == too_fast("").errno


def test_between_two_turns_others_have_theirs() -> None:
    order: list[str] = []

    def turns() -> Iterator[list[int]]:
        for number in range(3):
            order.append("ours")
            yield [number]

    async def both() -> list[int]:
        async with asyncio.TaskGroup() as group:
            group.create_task(others())
            return await gathered(turns())

    async def others() -> None:
        for _ in range(3):
            order.append("others'")
            await asyncio.sleep(0)

    assert asyncio.run(both()) == [0, 1, 2]
    assert order == ["ours", "others'"] * 3


def test_the_wire() -> None:
    body = attribute(1, b"abc") + nest(2, text(3, "d"), attribute(4, b""))
    assert len(body) % 4 == 0
    found = attributes(body)
    assert found[1] == b"abc"
    assert attributes(found[2]) == {3: b"d\0", 4: b""}
    assert attributes(body + b"\x09\0\7\0") == found, "an attribute that is cut off is none"
    assert attributes(b"\0\0\0\0") == {}
    assert list(messages(struct.pack("=IHHII", 99, 1, 0, 0, 0))) == [], "longer than the datagram"
    with pytest.raises(ValueError, match="do not fit into one netlink attribute"):
        attribute(1, bytes(1 << 16))
