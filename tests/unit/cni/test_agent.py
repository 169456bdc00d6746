"""The resident half: what it answers, whom it serves, and that one hung call is nobody else's."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cni import agent, journal, launcher, wire
from cni.workers import Workers
from tests.requirements import requires

CONFIG = {"cniVersion": "1.0.0", "name": "pods", "type": "wherry-cni", "subnet": "10.1.1.0/24", "agent": True}
CALL = {"CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
PATIENCE = 30.0


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def started(home: Path) -> "subprocess.Popen[bytes]":
    argv = [sys.executable, "-m", "cni.agent", f"--socket={home}/cni.sock", f"--run-dir={home}/run"]
    with (home / "agent.log").open("ab") as log:
        process = subprocess.Popen(argv, stderr=log)
    until((home / "cni.sock").exists, "it listens")
    return process


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("agent")
    process = started(home)
    yield home
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0, (home / "agent.log").read_text()
    assert not (home / "cni.sock").exists()
    assert "Traceback" not in (home / "agent.log").read_text()


@pytest.fixture(scope="module", params=["compiled", "python"])
def program(request: pytest.FixtureRequest, home: Path) -> Path:
    compiled = request.param == "compiled"
    if compiled:
        requires("cc")
    found = launcher.write_plugins(
        home / request.param, socket=f"{home}/cni.sock", run=f"{home}/run", compiled=compiled
    )
    assert launcher.is_compiled(found) == compiled, "a compiler that makes no program lacks libc6-dev"
    return found


def call(program: Path, command: str, **variables: str) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [program],
        env={**CALL, "CNI_COMMAND": command, **variables},
        input=json.dumps(CONFIG).encode(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stderr == b""
    return done.returncode, json.loads(done.stdout) if done.stdout else {}


def test_shims_bring_its_answers(program: Path) -> None:
    status, said = call(program, "ADD")
    assert (status, said["code"]) == (1, 3), "not 11: somebody has looked for the namespace"
    assert call(program, "STATUS")[1]["code"] == 1
    assert call(program, "ADD", CNI_IFNAME="a/b")[1]["code"] == 4
    assert call(program.parent / "portmap", "DEL") == (0, {})


def ask(home: Path, body: bytes) -> tuple[int, bytes]:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(PATIENCE)
        line.connect(f"{home}/cni.sock")
        line.sendall(body)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while more := line.recv(65536):
                answer += more
    return int.from_bytes(answer[4:8], "big") if answer else -1, answer[12:]


def test_what_is_no_call_gets_no_answer_and_harms_nobody(home: Path, program: Path) -> None:
    assert ask(home, b"GET / HTTP/1.1\r\n\r\n") == (-1, b"")
    assert ask(home, b"WCN1\xff\xff\xff\xff") == (-1, b"")
    assert ask(home, b"WCN1\0\0\0\x04torn") == (-1, b"")
    assert call(program, "ADD")[1]["code"] == 3


def test_a_caller_elsewhere_is_sent_away(home: Path) -> None:
    """Another mount namespace: the configuration's paths may mean other files there."""
    if os.geteuid():
        pytest.skip("needs root")
    script = (
        "import socket, sys; line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1]);"
        "line.sendall(bytes.fromhex(sys.argv[2])); sys.stdout.buffer.write(line.recv(4096))"
    )
    request = wire.request("wherry-cni", {**CALL, "CNI_COMMAND": "DEL"}, json.dumps(CONFIG).encode())
    for where in ("--mount", "--net"):
        done = subprocess.run(
            ["unshare", where, sys.executable, "-c", script, f"{home}/cni.sock", request.hex()],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout == wire.reply(wire.ALONE, b"elsewhere"), where


def test_a_second_agent_does_not_push_the_first_aside(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cni.agent", f"--socket={home}/cni.sock", f"--run-dir={home}/run"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert "another agent answers there" in done.stderr


def test_what_cannot_be_its_socket_or_directory_is_refused_and_kept(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    for socket_path, run, says in (
        (precious, tmp_path / "run", f"--socket {precious}: there is a file that is no socket"),
        (precious / "cni.sock", tmp_path / "run", f"--socket {precious}/cni.sock: {precious}: File exists"),
        (tmp_path / "cni.sock", precious, f"--run-dir {precious}: {precious}/journal: Not a directory"),
    ):
        argv = [sys.executable, "-m", "cni.agent", f"--socket={socket_path}", f"--run-dir={run}"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 1
        assert says in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert precious.read_text() == "keep"


def test_the_longest_path_that_plugins_take_can_be_listened_at(tmp_path: Path) -> None:
    folder = Path(f"/tmp/{os.getpid()}{'s' * 60}")
    try:
        path = f"{folder}/{'n' * (launcher._LONGEST_SOCKET - len(str(folder)) - 1)}"
        launcher.write_plugins(tmp_path / "bin", socket=path, run=f"{tmp_path}/run", compiled=False)
        with agent._door(path):
            assert Path(f"{path}.new").is_socket()
        with pytest.raises(ValueError, match="cannot be a socket"):
            launcher.write_plugins(tmp_path / "bin", socket=f"{path}n", run=f"{tmp_path}/run", compiled=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_agents_socket_is_taken_over(tmp_path: Path) -> None:
    first = started(tmp_path)
    first.kill()
    first.wait()
    assert (tmp_path / "cni.sock").is_socket()
    second = subprocess.Popen(
        [sys.executable, "-m", "cni.agent", f"--socket={tmp_path}/cni.sock", f"--run-dir={tmp_path}/run"],
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return ask(tmp_path, b"nonsense") == (-1, b"")
        return False

    until(answers, "the second answers")
    second.terminate()
    assert second.wait(PATIENCE) == 0


class Hung:
    """Plugins of which some hang until they are let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.calls: list[str] = []

    def __call__(self, kind: str, environment: Mapping[str, str], stdin: bytes, *_: object) -> tuple[bytes, int]:
        self.calls.append(f"{environment['CNI_COMMAND']} {environment['CNI_CONTAINERID']}")
        if environment["CNI_CONTAINERID"].startswith("hung") and environment["CNI_COMMAND"] == "ADD":
            assert self.go_on.wait(PATIENCE)
        return b"{}", 0


@pytest.fixture
def hung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Hung, agent.Agent]]:
    """An agent in this process, in a thread."""
    plugins = Hung()
    monkeypatch.setattr(agent, "answer", plugins)
    monkeypatch.setattr(agent, "PATIENCE", 0.2)
    door = agent._door(f"{tmp_path}/cni.sock")
    os.rename(tmp_path / "cni.sock.new", tmp_path / "cni.sock")
    made = agent.Agent(door, f"{tmp_path}/run")
    woken, waker = socket.socketpair()
    thread = threading.Thread(target=made.serve, args=(woken,))
    thread.start()
    with door, woken, waker:
        yield tmp_path, plugins, made
        plugins.go_on.set()
        waker.send(b"\0")
        thread.join(PATIENCE)
        assert not thread.is_alive()
        made.finish()
    assert os.listdir(tmp_path / "run/journal") == []


def begun(home: Path, container: str, command: str = "ADD") -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(PATIENCE)
    line.connect(f"{home}/cni.sock")
    variables = {**CALL, "CNI_COMMAND": command, "CNI_CONTAINERID": container}
    line.sendall(wire.request("bridge", variables, json.dumps(CONFIG).encode()))
    return line


def test_hung_calls_hold_up_nobody_else(hung: tuple[Path, Hung, agent.Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    home, plugins, _ = hung
    monkeypatch.setattr("cni.workers.SLOW", 0.1)
    lines = [begun(home, f"hung{number}") for number in range(20)]  # more than there are workers
    with begun(home, "swift") as line:
        assert line.recv(12)[:4] == wire.MAGIC
        line.send(b"\0")
    assert not plugins.go_on.is_set()
    for each in lines:
        each.close()


def test_a_call_that_takes_too_long_is_answered_and_undone(hung: tuple[Path, Hung, agent.Agent]) -> None:
    home, plugins, _ = hung
    with begun(home, "hung") as line:
        header = line.recv(12)
        said = json.loads(line.recv(4096))
        assert int.from_bytes(header[4:8], "big") == 1
        assert said["code"] == 11
    assert plugins.calls == ["ADD hung"]
    plugins.go_on.set()
    until(lambda: plugins.calls == ["ADD hung", "DEL hung"], "it is undone when it comes back")


@pytest.mark.parametrize("reads", [True, False])
def test_an_add_whose_shim_was_killed_is_undone(hung: tuple[Path, Hung, agent.Agent], reads: bool) -> None:
    """Before its answer, or with it in hand but not handed on."""
    home, plugins, _ = hung
    line = begun(home, "gone" if reads else "hung")
    if reads:
        assert line.recv(12)
    until(lambda: plugins.calls, "the call has begun")
    line.close()
    plugins.go_on.set()
    name = plugins.calls[0].removeprefix("ADD ")
    until(lambda: plugins.calls == [f"ADD {name}", f"DEL {name}"], "DEL")


def test_an_add_that_is_thanked_for_stays(hung: tuple[Path, Hung, agent.Agent]) -> None:
    home, plugins, _ = hung
    with begun(home, "kept") as line:
        assert line.recv(4096)
        line.send(b"\0")
        assert line.recv(1) == b"", "the journal has forgotten it"
    assert plugins.calls == ["ADD kept"]
    assert os.listdir(home / "run/journal") == []


def test_an_agent_that_ends_finishes_what_runs_and_sends_the_others_away(hung: tuple[Path, Hung, agent.Agent]) -> None:
    home, plugins, made = hung
    with begun(home, "hung") as running:
        until(lambda: plugins.calls, "it runs")
        made._ending = True
        with begun(home, "late") as late:
            assert late.recv(4096) == wire.reply(wire.ALONE, b"away")
        ending = threading.Thread(target=made.finish)
        plugins.go_on.set()
        assert running.recv(4096)[:8] == wire.MAGIC + b"\0\0\0\0"
        running.send(b"\0")
        ending.start()
        ending.join(PATIENCE)
        assert not ending.is_alive()
    assert plugins.calls == ["ADD hung"]


def test_a_thread_that_does_not_come_back_takes_no_more_calls(
    hung: tuple[Path, Hung, agent.Agent], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _plugins, made = hung
    with monkeypatch.context() as patched:
        patched.setattr(agent, "identity", lambda: (0, 0))
        patched.setattr(threading, "excepthook", lambda told: print(told.exc_value))
        with begun(home, "astray") as line:
            assert line.recv(4096)
            line.send(b"\0")
            until(lambda: made._workers.threads == 0, "its thread has ended")
    with begun(home, "next") as line:
        assert line.recv(4096)
        line.send(b"\0")
    until(lambda: made._workers.quiet, "both are done")
    assert "left its thread in another network namespace" in capsys.readouterr().out


def test_workers_are_as_many_as_are_wanted() -> None:
    done = threading.Semaphore(0)

    def work(call: agent.Call) -> None:
        done.release()

    left, right = socket.socketpair()
    workers = Workers(work, limit=2)
    for _ in range(50):
        workers.give(agent.Call(left))
    for _ in range(50):
        assert done.acquire(timeout=PATIENCE)
    until(lambda: workers.quiet, "all are done")
    left.close()
    right.close()
    assert len([each for each in threading.enumerate() if each.name.startswith("cni-")]) >= 1


def killed_in_an_add(home: Path) -> None:
    """Leaves the journal of a process that died in the middle."""
    script = f"""
import os
from cni import journal
journal.carry_out({f"{home}/run"!r}, lambda *given: (given[3].begin(), os._exit(9)), "wherry-cni",
    { ({**CALL, "CNI_COMMAND": "ADD"})!r}, {json.dumps({**CONFIG, "dataDir": str(home)}).encode()!r})
"""
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=PATIENCE).returncode == 9


def test_what_a_dead_agent_left_is_undone_by_the_next_one(tmp_path: Path) -> None:
    killed_in_an_add(tmp_path)
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods" / "10.1.1.7").write_bytes(b"c0ffee\r\neth0")
    process = started(tmp_path)
    told = "a half-done ADD is undone: wherry-cni c0ffee eth0"
    until(lambda: told in (tmp_path / "agent.log").read_text(), "it is undone")
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert not (tmp_path / "pods" / "10.1.1.7").exists()
    assert journal.sweep(f"{tmp_path}/run", Hung()) == []


def test_an_undoing_that_hangs_keeps_no_door_closed(tmp_path: Path) -> None:
    """Go's host-local holds the lock of the dead one's network, and hangs."""
    killed_in_an_add(tmp_path)
    (tmp_path / "pods").mkdir()
    (tmp_path / "pods" / "10.1.1.7").write_bytes(b"c0ffee\r\neth0")
    with (tmp_path / "pods" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = launcher.write_plugins(tmp_path / "bin", socket=f"{tmp_path}/cni.sock", run=f"{tmp_path}/run")
        alone = tmp_path / "bin" / launcher.ALONE
        assert call(alone, "ADD", CNI_CONTAINERID="other")[1]["code"] == 3, "nor any stand-alone ADD"
        process = started(tmp_path)
        assert call(program, "ADD", CNI_CONTAINERID="other")[1]["code"] == 3, "not 11"
    until(lambda: not os.listdir(tmp_path / "run/journal"), "it is undone")
    assert not (tmp_path / "pods" / "10.1.1.7").exists()
    process.terminate()
    assert process.wait(PATIENCE) == 0
