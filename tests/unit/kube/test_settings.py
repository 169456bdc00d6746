"""Configuration at the door: precedence, and refusals that name the field and the remedy."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube import settings
from kube.errors import UsageError
from kube.settings import Duration, Option


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    sync_period: Annotated[Duration, Option("--inner-sync-period", "how often")] = 30.0
    bit: Annotated[int, Option("--inner-bit", "which bit")] = 14


class Config(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, Option("--name", "whose", key=None)]
    cidr: Annotated[str, Option("--cidr", "which", key="clusterCIDR")] = ""
    loud: Annotated[bool, Option("--loud", "or not")] = False
    addresses: Annotated[tuple[str, ...], Option("--addresses", "many")] = ()
    patterns: Annotated[tuple[str, ...], Option("--pattern", "many, with commas in them", whole=True)] = ()
    labels: Annotated[dict[str, str], Option("--labels", "pairs")] = {}
    limit: int | None = None
    colour: Literal["", "red", "green"] = ""
    inner: Inner = Inner()


def load(*argv: str) -> Config:
    return settings.load(
        Config, argv, prog="daemon", description="a daemon", api_version="v1", document_kind="Configuration"
    )


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: v1\nkind: Configuration\n" + text)
    return str(path)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "clusterCIDR: 10.0.0.0/8\nloud: true\ninner: {syncPeriod: 1m30s}\nlimit: 3\n")
    config = load(
        "--name",
        "a",
        "--config",
        file,
        "--cidr",
        "10.1.0.0/16",
        "--addresses",
        "x,y",
        "--addresses=z",
        "--labels",
        "a=b,c=",
    )
    assert config == Config(
        name="a",
        cidr="10.1.0.0/16",
        loud=True,
        addresses=("x", "y", "z"),
        labels={"a": "b", "c": ""},
        limit=3,
        inner=Inner(sync_period=90.0),
    )


def test_what_is_rendered_can_be_read_again(tmp_path: Path) -> None:
    config = load("--name=a", "--inner-sync-period=250ms", "--addresses=x")
    file = tmp_path / "again.yaml"
    file.write_bytes(msgspec.yaml.encode({"apiVersion": "v1", "kind": "Configuration", **settings.render(config)}))
    assert load("--name=a", "--config", str(file)) == config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clusterCidr: x", "clusterCidr: unknown key; did you mean clusterCIDR?"),
        ("inner: {bitt: 1}", "inner.bitt: unknown key; did you mean inner.bit?"),
        ("inner: 3", "inner: expected a mapping, found 3"),
        ("inner: {bit: many}", "inner.bit: expected int, got str; found 'many'"),
        ("inner: {syncPeriod: soon}", "inner.syncPeriod: 'soon' is not a duration; write it like 30s or 1m30s"),
        ("name: a", "name: unknown key"),
        ("limit: 1\nloud: true\nlimit: 2", "line 5, column 1: the key 'limit' is given twice; write it once"),
        ("inner: {bit: 1, 'bit': 1}", "line 3, column 17: the key 'bit' is given twice; write it once"),
        ("kind: Other", "the key 'kind' is given twice"),
        ("colour: blue", "colour: unknown value 'blue'; write one of red, green"),
        ("colour: 3", "colour: expected str, got int; found 3"),
    ],
)
def test_refused_keys(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load("--name=a", "--config", written(tmp_path, text))
    assert words in str(caught.value)


def test_what_is_merged_in_may_be_overridden(tmp_path: Path) -> None:
    file = written(tmp_path, "labels: {<<: {a: x, b: y}, a: z}\n")
    assert load("--name=a", "--config", file).labels == {"a": "z", "b": "y"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--nam", "x"], "--nam: unknown flag; did you mean --name?"),
        ([], "--name is required"),
        (["--name=a", "--inner-bit", "x"], "--inner-bit: expected int, got str; found 'x'"),
        (["--name=a", "--labels", "x"], "--labels: 'x' is not of the form key=value"),
        (["--name=a", "--config", "/nowhere"], "--config /nowhere"),
    ],
)
def test_refused_flags(argv: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(*argv)
    assert words in str(caught.value)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("apiVersion: v1\nkind: Other\n")
    with pytest.raises(UsageError, match="kind: found 'Other', this daemon reads 'Configuration'"):
        load("--name=a", "--config", str(path))


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h2m3s", 3723.0), ("250ms", 0.25), ("1.5s", 1.5), ("7", 7.0), (3, 3.0), ("0s", 0.0)]
)
def test_durations(text: str | float, seconds: float) -> None:
    assert settings.parse_duration(text) == pytest.approx(seconds)
    assert settings.parse_duration(settings.format_duration(seconds)) == pytest.approx(seconds)


@given(st.integers(0, 10**16))
def test_every_duration_is_written_exactly(nanoseconds: int) -> None:
    text = settings.format_duration(nanoseconds / 1e9)
    assert settings.parse_duration(text) == pytest.approx(nanoseconds / 1e9, rel=1e-12)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.0005, "500µs"), (0.0015, "1.5ms"), (3600, "1h0m0s"), (90.25, "1m30.25s")]
)
def test_durations_are_spelt_as_go_spells_them(seconds: float, text: str) -> None:
    assert settings.format_duration(seconds) == text


@pytest.mark.parametrize("text", [-1, "-1s", float("nan"), float("inf"), True, None, "", "١s"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        settings.parse_duration(text)  # type: ignore[arg-type]


# --- taking a stock daemon's place

FOREIGN = {
    "theirs": settings.Foreign("it is not here; write none", ("none",)),
    "inner.deep": settings.Foreign("not here"),
}


def load_in_place(*argv: str) -> Config:
    return settings.load(
        Config,
        ["--name", "a", *argv],
        prog="daemon",
        description="a daemon",
        api_version="v1",
        document_kind="Configuration",
        drop_ins=True,
        foreign=FOREIGN,
    )


@pytest.mark.parametrize(
    "text", ["theirs: none\n", "theirs: ''\n", "inner: {deep: {a: 0s, b: []}}\n", "theirs: null\n"]
)
def test_a_foreign_key_may_ask_for_what_is_so_anyway(tmp_path: Path, text: str) -> None:
    assert load_in_place("--config", written(tmp_path, text)) == load_in_place()


def test_a_foreign_key_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="theirs: all: it is not here; write none"):
        load_in_place("--config", written(tmp_path, "theirs: all\n"))
    with pytest.raises(UsageError, match=r'inner\.deep: \{"a":1\}: not here'):
        load_in_place("--config", written(tmp_path, "inner: {deep: {a: 1}}\n"))


def test_drop_ins_merge_and_take_back(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    head = "apiVersion: v1\nkind: Configuration\n"
    (folder / "2.conf").write_text(f"{head}limit: null\naddresses: [z]\n")
    (folder / "1.conf").write_text(f"{head}inner: {{bit: 3}}\n")
    found = load_in_place(
        "--config",
        written(tmp_path, "limit: 4\ninner: {syncPeriod: 1s}\naddresses: [x, y]\n"),
        "--config-dir",
        str(folder),
    )
    assert found == Config(name="a", addresses=("z",), inner=Inner(sync_period=1.0, bit=3))
    with pytest.raises(UsageError, match="--config-dir /nowhere: No such file or directory"):
        load_in_place("--config-dir", "/nowhere")


def test_zeros_are_defaults_where_the_stock_daemon_has_it_so() -> None:
    written_out = Config(name="a", inner=Inner(sync_period=0.0, bit=0), loud=False, cidr="")
    assert settings.with_defaults(written_out) == Config(name="a")
    assert settings.with_defaults(written_out, keep=("bit",)).inner == Inner(bit=0)


def test_whole_values_are_repeated_and_never_split(tmp_path: Path) -> None:
    assert load("--name", "a", "--pattern=x{1,2}", "--pattern", "y").patterns == ("x{1,2}", "y")
    assert load("--name", "a", "--config", written(tmp_path, "patterns: 'x{1,2}'\n")).patterns == ("x{1,2}",)
    assert load("--name", "a", "--config", written(tmp_path, "patterns: [a, 'b,c']\n")).patterns == ("a", "b,c")


def test_the_flags_there_are() -> None:
    assert {"--name", "--inner-bit", "--loud"} < settings.flags(Config)
    assert settings.flags(Config, bool) == {"--loud"}
