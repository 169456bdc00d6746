"""Reading logs: both formats, tails, since, limits, and following through rotation."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet.containerlogs.logs import BadOption, LogOptions, Record, options_from, parse, read, tail_offset
from kubelet.containerlogs.messages import log_tail

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def docker(*texts: str, second: int = 0) -> bytes:
    rows = [
        {"log": text, "stream": "stdout", "time": f"2026-01-02T03:04:{second + n:02}.123456789Z"}
        for n, text in enumerate(texts)
    ]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def cri(*texts: str) -> bytes:
    return b"".join(f"2026-01-02T03:04:{n:02}.123456789Z stdout {text}\n".encode() for n, text in enumerate(texts))


async def whole(pieces: AsyncGenerator[bytes, None]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def no() -> bool:
    return False


@pytest.mark.parametrize(("stream", "expected"), [("", b"out\nerr\n"), ("stdout", b"out\n"), ("stderr", b"err\n")])
async def test_one_stream_of_two(tmp_path: Path, stream: str, expected: bytes) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"2026-01-02T03:04:05Z stdout F out\n2026-01-02T03:04:06Z stderr F err\n")
    assert await whole(read(str(path), LogOptions(stream=stream), no)) == expected


async def test_the_tail_of_one_stream(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    rows = [f"2026-01-02T03:04:05Z {'stderr' if n % 3 else 'stdout'} F {n}\n" for n in range(30)]
    path.write_text("".join(rows))
    options = LogOptions(stream="stdout", tail_lines=2)
    assert await whole(read(str(path), options, no)) == b"24\n27\n"


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (docker("a\n")[:-1], Record("2026-01-02T03:04:00.123456789Z", "stdout", b"a\n", False)),
        (docker("a")[:-1], Record("2026-01-02T03:04:00.123456789Z", "stdout", b"a", True)),
        (cri("F two words")[:-1], Record("2026-01-02T03:04:00.123456789Z", "stdout", b"two words\n", False)),
        (cri("P a")[:-1], Record("2026-01-02T03:04:00.123456789Z", "stdout", b"a", True)),
        (cri("P:tag a")[:-1], Record("2026-01-02T03:04:00.123456789Z", "stdout", b"a", True)),
        (cri("F ")[:-1], Record("2026-01-02T03:04:00.123456789Z", "stdout", b"\n", False)),
        (b'{"log":"torn', None),
        (b"neither format", None),
        (b"", None),
    ],
)
def test_parse(line: bytes, record: Record | None) -> None:
    assert parse(line) == record


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (LogOptions(), b"one\ntwo three\nfour\n"),
        (LogOptions(tail_lines=0), b""),
        (LogOptions(tail_lines=1), b"four\n"),
        (LogOptions(tail_lines=2), b"two three\nfour\n"),
        (LogOptions(tail_lines=9), b"one\ntwo three\nfour\n"),
        (LogOptions(limit_bytes=5), b"one\nt"),
        (LogOptions(since=datetime(2026, 1, 2, 3, 4, 3, tzinfo=UTC)), b"four\n"),
        (
            LogOptions(timestamps=True, tail_lines=2),
            b"2026-01-02T03:04:01.123456789Z two three\n2026-01-02T03:04:03.123456789Z four\n",
        ),
    ],
)
@pytest.mark.parametrize("form", ["docker", "cri"])
async def test_options(tmp_path: Path, form: str, options: LogOptions, expected: bytes) -> None:
    path = tmp_path / "0.log"
    if form == "docker":
        path.write_bytes(docker("one\n", "two ", "three\n", "four\n"))
    else:
        path.write_bytes(cri("F one", "P two ", "F three", "F four"))
    assert await whole(read(str(path), options, no)) == expected


async def test_an_unfinished_line_is_shown_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(docker("one\n", "two ", "thr") + b'{"log":"torn')
    assert await whole(read(str(path), LogOptions(), no)) == b"one\ntwo thr"
    path.write_bytes(docker("one\n", "two\n", "thr"))
    assert await whole(read(str(path), LogOptions(tail_lines=2), no)) == b"two\nthr"


@given(
    lines=st.lists(st.text("ab", max_size=200_000 // 400), max_size=60),
    wanted=st.integers(0, 70),
    pieces=st.integers(1, 50),
)
def test_a_tail_is_the_end_of_the_whole(lines: list[str], wanted: int, pieces: int) -> None:
    rows = []
    for line in lines:
        text = f"{line}\n"
        rows += [text[start : start + pieces] for start in range(0, len(text), pieces)]
    data = docker(*rows[:60]) if rows else b""
    output = "".join(rows[:60])
    expected = output.splitlines(keepends=True)[-wanted:] if wanted else []
    file = io.BytesIO(data)
    offset = tail_offset(file, wanted)
    found = b"".join(record.text for raw in data[offset:].splitlines() if (record := parse(raw)))
    assert found.decode() == "".join(expected)


def test_a_tail_of_a_long_file_spans_blocks() -> None:
    data = b"".join(docker(f"{n:06} {'x' * 90}\n") for n in range(5000))
    for wanted in (1, 400, 3000, 4999, 5000, 6000):
        raw = data[tail_offset(io.BytesIO(data), wanted) :].splitlines()
        assert len(raw) == min(wanted, 5000)
        first = parse(raw[0])
        assert first is not None
        assert first.text.startswith(f"{5000 - min(wanted, 5000):06} ".encode())


async def follow(path: Path, steps: Sequence[bytes | str], running: asyncio.Event) -> bytes:
    """Follow `path` while `steps` happen to it: bytes are appended, a name is what the file is renamed to."""
    found = b""
    expected = 0

    async def alive() -> bool:
        return not running.is_set()

    async def gather() -> None:
        nonlocal found
        async for piece in read(str(path), LogOptions(follow=True), alive):
            found += piece

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(gather())
        for step in steps:
            if isinstance(step, str):
                path.rename(path.with_name(step))
                path.touch()
                continue
            with path.open("ab") as file:
                file.write(step)
            expected += sum(len(record.text) for raw in step.splitlines() if (record := parse(raw)))
            while len(found) < expected:
                await asyncio.sleep(0.01)
        running.set()
    return found


async def test_following_ends_with_the_container(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"")
    assert await follow(path, [docker("one\n"), docker("two\n", "three\n")], asyncio.Event()) == b"one\ntwo\nthree\n"


async def test_following_survives_rotation(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"")
    steps = [docker("one\n"), "0.log.1", docker("two\n"), "0.log.2", docker("three\n")]
    assert await follow(path, steps, asyncio.Event()) == b"one\ntwo\nthree\n"


async def test_what_is_written_just_before_the_rotation_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(docker("one\n"))
    found: list[bytes] = []
    ended = asyncio.Event()

    async def alive() -> bool:
        return not ended.is_set()

    async with asyncio.timeout(20):
        async for piece in read(str(path), LogOptions(follow=True), alive):
            found.append(piece)
            if piece == b"one\n":
                with path.open("ab") as file:
                    file.write(docker("two\n"))
                path.rename(tmp_path / "0.log.1")
                path.write_bytes(docker("three\n"))
            if b"three" in piece:
                ended.set()
    assert b"".join(found) == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("what", ["pipe", "device", "link", "folder behind a link", "directory"])
async def test_what_a_pod_puts_in_a_logs_place_is_not_read(tmp_path: Path, what: str) -> None:
    """A pod may mount the node's logs. None of these is opened: a pipe would hang the kubelet, a link show any file."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0.log").write_bytes(cri("F secret"))
    folder = tmp_path / "pod" / "container"
    folder.parent.mkdir()
    if what == "folder behind a link":
        folder.symlink_to(elsewhere)
    else:
        folder.mkdir()
    path = folder / "0.log"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "link":
        path.symlink_to(elsewhere / "0.log")
    elif what == "directory":
        path.mkdir()
    async with asyncio.timeout(2):
        with pytest.raises(OSError, match=r"no file|a link|irectory"):
            await whole(read(str(path), LogOptions(), no))
    assert log_tail(str(path)) == ""


async def test_a_follower_does_not_follow_into_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(cri("F one"))
    found = b""
    async with asyncio.timeout(5):
        async for piece in read(str(path), LogOptions(follow=True), no):
            found += piece
            if piece:
                path.unlink()
                os.mkfifo(path)
    assert found == b"one\n"


async def test_a_line_without_end_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    with path.open("wb") as file:
        file.write(cri("F one"))
        file.truncate(40 << 20)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + cri("F two"))
    for options in (LogOptions(), LogOptions(tail_lines=2)):
        pieces = read(str(path), options, no)
        assert await whole(pieces) == b"one\ntwo\n"
    assert await whole(read(str(path), LogOptions(tail_lines=1), no)) == b"two\n"


async def test_a_long_tail_leaves_the_loop_alone(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(cri(*["F " + "x" * 60] * 60) * 2500)
    longest, last = 0.0, time.thread_time()

    async def pulse() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0)
            longest, last = max(longest, time.thread_time() - last), time.thread_time()

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(pulse())
        found = await whole(read(str(path), LogOptions(tail_lines=10**7, limit_bytes=61), no))
        watching.cancel()
    assert found == b"x" * 60 + b"\n"
    assert longest < 0.15, "seconds of CPU in one step of the loop"


async def test_a_file_cut_short_is_read_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(docker("a long first line\n"))
    ended = asyncio.Event()
    found = b""

    async def alive() -> bool:
        return not ended.is_set()

    async with asyncio.timeout(20):
        async for piece in read(str(path), LogOptions(follow=True), alive):
            if piece and not found:
                path.write_bytes(docker("2\n"))
            found += piece
            if found.endswith(b"2\n"):
                ended.set()
    assert found == b"a long first line\n2\n"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"tailLines": "x"}, "tailLines"),
        ({"tailLines": "-1"}, "tailLines"),
        ({"limitBytes": "0"}, "limitBytes"),
        ({"sinceSeconds": "0"}, "sinceSeconds"),
        ({"sinceTime": "yesterday"}, "sinceTime"),
        ({"sinceTime": "2026-01-01T00:00:00Z", "sinceSeconds": "3"}, "at most one"),
        ({"follow": "perhaps"}, "follow"),
        ({"stream": "Stdin"}, "stream"),
    ],
)
def test_a_bad_option_is_named(query: dict[str, str], named: str) -> None:
    with pytest.raises(BadOption, match=named):
        options_from(query, NOW)


def test_options_from_a_query() -> None:
    query = {"follow": "true", "timestamps": "1", "tailLines": "5", "limitBytes": "9", "sinceSeconds": "60"}
    assert options_from(query, NOW) == LogOptions(
        follow=True, timestamps=True, tail_lines=5, limit_bytes=9, since=datetime(2026, 1, 2, 3, 3, 5, tzinfo=UTC)
    )
    assert options_from({"sinceTime": "2026-01-01T00:00:00Z"}, NOW).since == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_line_that_is_deeper_than_any_record_is_none() -> None:
    assert parse(b'{"x":' + b"[" * 100_000) is None
