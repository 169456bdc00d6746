"""`wherry overlay`: whose flags are whose, and the configuration that a running daemon tells."""

import asyncio
import json
from collections.abc import Callable
from typing import Never

import pytest

from kube import settings
from kube.errors import Retry, UsageError
from overlay import commands
from overlay.commands import _read, configured, main, parted
from overlay.config import load
from overlay.model import NotYet
from overlay.registry.etcd import EtcdSubnets


@pytest.mark.parametrize(
    ("argv", "theirs", "ours"),
    [
        (["show"], [], ["show"]),
        (["show", "node2", "-o", "json"], [], ["show", "node2", "-o", "json"]),
        (["show", "--kubeconfig", "k", "node2"], ["--kubeconfig", "k"], ["show", "node2"]),
        (["show", "--kubeconfig=k", "--ip-masq", "node2"], ["--kubeconfig=k", "--ip-masq"], ["show", "node2"]),
        (["show", "-iface=eth1", "-ip-masq", "node2"], ["-iface=eth1", "-ip-masq"], ["show", "node2"]),
        (["show", "--config", "f", "-kubeconfig-file", "k"], ["--config", "f", "-kubeconfig-file", "k"], ["show"]),
        (["show", "--help"], [], ["show", "--help"]),
    ],
)
def test_the_daemons_flags_are_told_from_ours(argv: list[str], theirs: list[str], ours: list[str]) -> None:
    assert parted(argv) == (theirs, ours)


def test_a_running_daemons_configuration_is_read_back_whole() -> None:
    flags = [
        "--kubeconfig=/k",
        "--iface=eth1",
        "--ip-masq",
        "--resync=45s",
        "--public-ipv6=fd00::1",
        "--healthz-port=99",
    ]
    config = load(flags)
    assert configured(json.dumps(settings.render(config))) == config


def test_an_etcd_daemons_too() -> None:
    config = load(
        ["--etcd-endpoints=http://a:2379,http://b:2379", "--etcd-prefix=/x/y", "--subnet-lease-renew-margin=5"]
    )
    assert configured(json.dumps(settings.render(config))) == config


@pytest.mark.parametrize("text", ["", "<html>", "[]", "null"])
def test_another_daemons_answer_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no overlay daemon"):
        configured(text)


def test_help_says_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["show", "--help"])
    assert left.value.code == 0
    assert "exit status: 0 all as wanted" in capsys.readouterr().out


class Silent(EtcdSubnets):
    """A registry that says nothing more than it has said."""

    def __init__(self, *, answered: bool) -> None:
        self.synced = asyncio.Event()
        if answered:
            self.synced.set()

    @property
    def where(self) -> str:
        return "nowhere"

    async def run(self, changed: Callable[[], None]) -> Never:
        while True:
            await asyncio.sleep(3600)


@pytest.mark.parametrize("error", [NotYet("no config yet"), UsageError("config: Network: ..."), Retry("busy")], ids=str)
async def test_what_is_missing_comes_out_as_it_is_and_not_in_a_group(error: Exception) -> None:
    """`main` has words for these; a group of one would be a traceback."""
    with pytest.raises(type(error), match=str(error)):
        async with _read(Silent(answered=True)):
            raise error


async def test_a_registry_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_PATIENCE", 0.01)
    with pytest.raises(UsageError, match="nowhere did not answer"):
        async with _read(Silent(answered=False)):
            pass
