"""A real browser without a screen, told what to do over its own DevTools protocol: one web socket, numbered calls.

Nothing of it is left: the profile lies in the test's directory and the process is ended, the hard way if it must be.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from tests.requirements import tool

PROGRAM = "chromium-headless-shell"
_PATIENCE = 30.0


class Page:
    """One tab. Calls are made one after the other; what the browser says meanwhile is looked through for errors."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        """Uncaught exceptions, console errors and refusals of the content policy."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_PATIENCE):
            while True:
                said = json.loads(await self._socket.receive_str())
                if said.get("id") == number:
                    assert "error" not in said, f"{method}: {said['error']}"
                    return dict(said["result"])
                self._note(said.get("method", ""), said.get("params", {}))

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif event == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")

    async def value(self, expression: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def until(self, expression: str, wanted: Callable[[Any], bool] = bool) -> Any:
        """The value of `expression` once it is as wanted."""
        deadline = time.monotonic() + _PATIENCE
        while not wanted(seen := await self.value(expression)):
            assert time.monotonic() < deadline, f"{expression} is {seen!r} after {_PATIENCE:.0f} s; {self.complaints}"
            await asyncio.sleep(0.05)
        return seen

    async def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState", lambda state: state == "complete")

    async def size(self, width: int, height: int, *, phone: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )

    async def prefers(self, scheme: str) -> None:
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def key(self, key: str) -> None:
        text = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def click(self, selector: str) -> None:
        """As a finger would: on the middle of the element."""
        where = f"document.querySelector({json.dumps(selector)})"
        await self.value(f"{where}.scrollIntoView({{block: 'center'}})")
        box = await self.value(
            f"(() => {{ const b = {where}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    async def move(self, x: float, y: float) -> None:
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def picture(self, path: Path) -> None:
        shot = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """A tab of a browser that has its profile in `folder`."""
    program = tool(PROGRAM)
    assert program is not None
    log = (folder / "chromium.log").open("wb")
    process = subprocess.Popen(
        [
            *(
                program,
                "--remote-debugging-port=0",
                f"--user-data-dir={folder / 'profile'}",
                "--no-sandbox",
                "--disable-gpu",
            ),
            *("--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "about:blank"),
        ],
        stdout=log,
        stderr=log,
        env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
        start_new_session=True,
    )
    try:
        port = await _port(process, folder)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                tab = next(one for one in await answer.json() if one["type"] == "page")
            async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


async def _port(process: "subprocess.Popen[bytes]", folder: Path) -> int:
    """The port that it chose; it writes it down in its profile."""
    deadline = time.monotonic() + _PATIENCE
    written = folder / "profile" / "DevToolsActivePort"
    while True:
        said = (folder / "chromium.log").read_text(errors="replace")[-2000:]
        assert process.poll() is None, f"{PROGRAM} ended with {process.returncode}: {said}"
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(written.read_text().split()[0])
        assert time.monotonic() < deadline, f"{PROGRAM} is not ready after {_PATIENCE:.0f} s: {said}"
        await asyncio.sleep(0.05)
