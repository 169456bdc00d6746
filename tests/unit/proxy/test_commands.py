"""What people type wrong at `wherry proxy`, and what it says."""

from __future__ import annotations

import pytest

from kube.errors import UsageError
from proxy import commands


@pytest.fixture(autouse=True)
def _privileged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "effective", lambda _: True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "trace --from 10.0.0.1 --to 10.96.0.1",
            r"--to 10\.96\.0\.1: write IP:PORT, \[IPv6\]:PORT or NAMESPACE/SERVICE",
        ),
        ("trace --from 10.0.0.1 --to 10.96.0.1:0", r"--to 10\.96\.0\.1:0: write IP:PORT"),
        ("trace --from 10.0.0.1 --to [fd00::1]", r"--to \[fd00::1\]: write IP:PORT"),
        ("trace --from host --to 10.96.0.1:80", r"--from host: this is neither an IP address nor NAMESPACE/POD"),
        ("trace --from fd00::1 --to 10.96.0.1:80", r"--from fd00::1 and --to 10\.96\.0\.1 are of two families"),
        ("show web", r"web: write NAMESPACE/SERVICE"),
        ("show --kubeconfig /nowhere", r"--kubeconfig /nowhere: .*name a readable kubeconfig file"),
    ],
)
def test_one_line_names_what_is_wrong(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        commands.main(words.split())


def test_names_need_an_api(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody() -> dict[str, object]:
        return {}

    monkeypatch.setattr(commands, "_running", nobody)
    with pytest.raises(
        UsageError, match=r"names are looked up in the API, but no proxy answers .*give --kubeconfig FILE"
    ):
        commands.main(["trace", "--from", "10.0.0.1", "--to", "default/web"])


def test_rules_are_read_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "effective", lambda _: False)
    with pytest.raises(UsageError, match=r"run as root \(sudo\)"):
        commands.main(["show"])


@pytest.mark.parametrize("words", [[], ["drop"], ["trace"], ["trace", "--from", "10.0.0.1"], ["show", "-o", "xml"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(words)
    assert ended.value.code == 2
    assert "usage: wherry proxy" in capsys.readouterr().err
