"""Configuration, read once, at the door.

A room's `config.py` declares one frozen Struct. Each field is a key of the configuration file (its name in camelCase) and,
where it carries an `Option`, a command line flag:

    class Config(msgspec.Struct, frozen=True, kw_only=True):
        hostname_override: Annotated[str, Option("--hostname-override", "name of this node", key=None)] = ""
        sync_frequency: Annotated[Duration, Option("--sync-frequency", "how often ...")] = 60.0
        iptables: IPTables = IPTables()        # a nested Struct is a nested key; its fields may have flags too

`key=None` makes a field flag-only (upstream keeps node identity out of KubeletConfiguration); `key="clusterCIDR"` spells
what camelCase does not. Field types: str, int, float, bool, `Duration`, Literal, `tuple[str, ...]` (flag: commas, or
repeated), `dict[str, str]` (flag: `a=b,c=d`), nested Structs, each also `| None`.

Flags win over the file, the file over defaults. Unknown keys and flags are refused with the nearest known one, and so are
keys given twice. Every refusal is a `UsageError` that names the file or flag, the field and the remedy. A daemon that takes
the stock daemon's place also names the keys that the stock one has and it has not (`Foreign`): their refusal says what to do
instead.

With `drop_ins` there is `--config-dir` too: its `*.conf` files, in the order of their names, are JSON merge patches
(RFC 7386) of the file: mappings merge, lists and values replace, null takes back.
"""

import argparse
import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Never, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from kube.errors import UsageError
from kube.version import GIT_VERSION

C = TypeVar("C", bound=msgspec.Struct)

_SAME = "\0"
_DURATION_MARK = msgspec.Meta(extra={"duration": True})
Duration = Annotated[float, _DURATION_MARK]
"""Seconds; written as Go durations (`30s`, `1m30s`, `250ms`) or plain numbers of seconds."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Option:
    """A flag and its help; `key` is the file's key when it is not the field's name in camelCase, None for flag-only. A tuple's
    flag may be repeated and is split at commas; `whole` values (patterns, say) are only repeated."""

    flag: str | None
    help: str = ""
    key: str | None = _SAME
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Foreign:
    """A key of the stock daemon's file that this one does not read: `remedy` says why, and what to do. Values `as_is` (and
    empty ones; false is none where true is as it is) ask for what is done anyway and are accepted."""

    remedy: str
    as_is: tuple[Any, ...] = ()

    def accepts(self, value: Any) -> bool:
        return value in self.as_is or (_empty(value) and not (value is False and True in self.as_is))


class _Nothing(msgspec.Struct):
    """A section without keys of ours."""


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    key: str | None
    flag: str | None
    help: str
    kind: Any
    duration: bool
    nested: type[msgspec.Struct] | None
    default: Any
    whole: bool


def parse_duration(text: str | float) -> float:
    """Seconds, never negative; raises ValueError."""
    if isinstance(text, int | float) and not isinstance(text, bool) and 0 <= text < float("inf"):
        return float(text)
    if isinstance(text, str) and re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    parts = _DURATION.findall(text) if isinstance(text, str) else []
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write it like 30s or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def format_duration(seconds: float) -> str:
    """The Go spelling, exact to a nanosecond: 90.0 -> `1m30s`, 0.25 -> `250ms`, 3600.0 -> `1h0m0s`."""
    whole, nanos = divmod(round(seconds * 10**9), 10**9)
    if not whole:
        unit, scale = next(((u, s) for u, s in (("ms", 10**6), ("µs", 10**3)) if nanos >= s), ("ns", 1))
        return f"{_decimal(nanos // scale, nanos % scale, scale)}{unit}" if nanos else "0s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{text}{_decimal(rest, nanos, 10**9)}s"


def _decimal(whole: int, part: int, scale: int) -> str:
    digits = str(part).rjust(len(str(scale)) - 1, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def load(
    kind: type[C],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    api_version: str = "",
    document_kind: str = "",
    drop_ins: bool = False,
    foreign: Mapping[str, Foreign] = MappingProxyType({}),
) -> C:
    """The configuration that `argv` asks for. `--config FILE` is there when `document_kind` names what the file holds;
    `--config-dir DIR` when there may be `drop_ins`.

    Raises UsageError; exits 0 after `--help` and `--version`.
    """
    parser = _Parser(prog=prog, description=description, allow_abbrev=False)
    parser.foreign = foreign
    parser.add_argument("--version", action="version", version=f"{prog} {GIT_VERSION}")
    if document_kind:
        parser.add_argument(
            "--config", metavar="FILE", help=f"a {document_kind} ({api_version}), YAML or JSON; flags win"
        )
    if drop_ins:
        parser.add_argument("--config-dir", metavar="DIR", help="its *.conf files are merged into --config, by name")
    _add_flags(parser, kind)
    known, unknown = parser.parse_known_args(list(argv))
    parser.judge(unknown)
    given = vars(known)
    path, folder = given.pop("config", None), given.pop("config_dir", None)
    whole: dict[str, Any] = {}
    for flag, file in _files(path, folder):
        document = _document(f"{flag} {file}", file, api_version, document_kind)
        _from_document(kind, _merged({}, document), f"{flag} {file}", foreign)  # each file is told its own mistakes
        whole = _merged(whole, document)
    values = _from_document(kind, whole, "--config", foreign)
    _overlay(kind, values, given)
    return _build(kind, values, prog)


def flags(kind: type[msgspec.Struct], of: Any = None) -> set[str]:
    """The names of the flags there are, or of those whose values are of the type `of`."""
    return {
        name
        for field in _fields(kind)
        for name in (flags(field.nested, of) if field.nested else {field.flag} if of in (None, field.kind) else set())
        if name
    }


def render(config: msgspec.Struct) -> dict[str, Any]:
    """The configuration as its file would spell it (`/configz`, written config files): keys, durations as text."""
    document: dict[str, Any] = {}
    for field in _fields(type(config)):
        if field.key is None:
            continue
        value = getattr(config, field.name)
        if value is None:
            continue
        if isinstance(value, msgspec.Struct):
            value = render(value)
        elif field.duration:
            value = format_duration(value)
        elif isinstance(value, tuple):
            value = msgspec.to_builtins(list(value))
        document[field.key] = value
    return document


class _Parser(argparse.ArgumentParser):
    foreign: Mapping[str, Foreign] = MappingProxyType({})

    def judge(self, unknown: Sequence[str]) -> None:
        """Most of the stock daemon's keys are flags too: they may ask for what is done anyway."""
        rest = list(unknown)
        while rest:
            flag, given, value = rest.pop(0).partition("=")
            if not flag.startswith("--"):
                self.error(f"unrecognized arguments: {flag}")
            if not given:
                value = rest.pop(0) if rest and not rest[0].startswith("-") else "true"
            name = flag.replace("-", "")
            other = next((other for key, other in self.foreign.items() if key.lower() == name), None)
            if other is None:
                known = difflib.get_close_matches(flag, self._option_string_actions, 1)
                hint = f"did you mean {known[0]}?" if known else "see --help for the flags there are"
                raise UsageError(f"{flag}: unknown flag; {hint}")
            if not other.accepts(_as_in_a_file(value)):
                raise UsageError(f"{flag}: {other.remedy}")

    def error(self, message: str) -> Never:
        raise UsageError(f"{message}; see --help")


def _fields(kind: type[msgspec.Struct]) -> list[_Field]:
    hints = get_type_hints(kind, include_extras=True)
    fields = []
    for info in msgspec.structs.fields(kind):
        annotation = hints[info.name]
        base, extras = _unwrap(annotation)
        option = next((e for e in extras if isinstance(e, Option)), Option(None))
        nested = base if isinstance(base, type) and issubclass(base, msgspec.Struct) else None
        fields.append(
            _Field(
                name=info.name,
                key=camel(info.name) if option.key == _SAME else option.key,
                flag=option.flag,
                help=option.help,
                kind=base,
                duration=_DURATION_MARK in extras,
                nested=nested,
                default=_default(info),
                whole=option.whole,
            )
        )
    return fields


def _unwrap(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """The bare type without Annotated and without `| None`, and everything that annotated it."""
    extras: tuple[Any, ...] = ()
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            extras += tuple(more)
            continue
        members = get_args(annotation)
        if type(None) in members and len(members) == 2 and get_origin(annotation) is not tuple:
            annotation = next(m for m in members if m is not type(None))
            continue
        return annotation, extras


def _default(info: msgspec.structs.FieldInfo) -> Any:
    if info.default is not msgspec.NODEFAULT:
        return info.default
    return info.default_factory() if info.default_factory is not msgspec.NODEFAULT else msgspec.NODEFAULT


def with_defaults(config: C, keep: Collection[str] = ()) -> C:
    """`config` with every zero and empty text that is not its field's default replaced by that default, but for the fields
    that `keep` names: how stock daemons read files that were written out whole."""
    changes: dict[str, Any] = {}
    for field in _fields(type(config)):
        value = getattr(config, field.name)
        if isinstance(value, msgspec.Struct):
            changes[field.name] = with_defaults(value, keep)
        elif (
            field.name not in keep
            and value in (0, "")
            and value is not False
            and field.default is not msgspec.NODEFAULT
        ):
            changes[field.name] = field.default
    return msgspec.structs.replace(config, **changes)


def _add_flags(parser: argparse.ArgumentParser, kind: type[msgspec.Struct], prefix: str = "") -> None:
    for field in _fields(kind):
        dest = f"{prefix}{field.name}"
        if field.nested:
            _add_flags(parser, field.nested, f"{dest}.")
        if not field.flag:
            continue
        text = field.help
        if field.default not in (msgspec.NODEFAULT, None, "", (), {}):
            shown = format_duration(field.default) if field.duration else _shown(field.default)
            text += f" (default {shown})"
        extra: dict[str, Any] = {"nargs": "?", "const": "true"} if field.kind is bool else {}
        if get_origin(field.kind) in (tuple, dict):
            extra = {"action": "append"}
        name = "BOOL" if field.kind is bool else "DURATION" if field.duration else _metavar(field.kind)
        parser.add_argument(
            field.flag,
            dest=dest,
            default=argparse.SUPPRESS,
            metavar=name,
            help=text.replace("%", "%%"),
            **extra,
        )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items())
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _metavar(kind: Any) -> str:
    names = {int: "N", float: "X", str: "TEXT"}
    return names.get(kind) or {tuple: "A,B", dict: "K=V"}.get(get_origin(kind) or kind, "TEXT")


def _files(path: str | None, folder: str | None) -> list[tuple[str, str]]:
    """The configuration's files with the flag that named each; raises UsageError."""
    files = [("--config", path)] if path else []
    if folder:
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(".conf"))
        except OSError as error:
            raise UsageError(f"--config-dir {folder}: {error.strerror}; name a readable directory") from error
        files += [("--config-dir", os.path.join(folder, name)) for name in names]
    return files


def _document(where: str, path: str, api_version: str, document_kind: str) -> dict[str, Any]:
    import yaml

    from kube import once

    try:
        document = once.loads(Path(path).read_bytes())
    except once.Repeated as error:
        raise UsageError(f"{where}: {one_line(error)}; write it once") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {one_line(error)}; name a readable YAML or JSON file") from error
    if not isinstance(document, dict):
        raise UsageError(f"{where}: expected a mapping with apiVersion and kind at its top")
    for key, wanted in (("apiVersion", api_version), ("kind", document_kind)):
        found = document.pop(key, None)
        if found != wanted:
            raise UsageError(f"{where}: {key}: found {found!r}, this daemon reads {wanted!r}; write {key}: {wanted}")
    return document


def _merged(base: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(base) if isinstance(base, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _empty(value: Any) -> bool:
    """Nothing at all, or mappings and zeros of it all the way down: what a file says that was written out whole."""
    if isinstance(value, dict):
        return all(_empty(inner) for inner in value.values())
    return value in (None, False, 0, "", "0", "0s", [])


def one_line(error: Exception) -> str:
    """What an unreadable file's error says, without the path again and without the parser's drawing."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"
    return " ".join(str(error).split())


def _from_document(
    kind: type[msgspec.Struct], document: dict[str, Any], source: str, foreign: Mapping[str, Foreign], prefix: str = ""
) -> dict[str, Any]:
    fields = {f.key: f for f in _fields(kind) if f.key is not None}
    values: dict[str, Any] = {}
    for key, value in document.items():
        field = fields.get(key)
        where = f"{source}: {prefix}{key}"
        inside = f"{prefix}{key}."
        if field is None and isinstance(value, dict) and any(name.startswith(inside) for name in foreign):
            _from_document(_Nothing, value, source, foreign, inside)  # a section of which nothing is read
            continue
        if field is None and (other := foreign.get(f"{prefix}{key}")):
            if not other.accepts(value):
                raise UsageError(f"{where}: {_short(value)}: {other.remedy}")
            continue
        if field is None:
            known = difflib.get_close_matches(str(key), list(fields), 1)
            hint = f"did you mean {prefix}{known[0]}?" if known else f"known keys: {', '.join(sorted(fields))}"
            raise UsageError(f"{where}: unknown key; {hint}")
        if value is None:
            continue
        if field.nested:
            if not isinstance(value, dict):
                raise UsageError(f"{where}: expected a mapping, found {value!r}")
            values[field.name] = _from_document(field.nested, value, source, foreign, f"{prefix}{key}.")
        else:
            alone = field.whole and isinstance(value, str)  # one is written without brackets too
            values[field.name] = _converted(field, [value] if alone else value, where)
    return values


def _as_in_a_file(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}..."


def _overlay(kind: type[msgspec.Struct], values: dict[str, Any], given: dict[str, Any], prefix: str = "") -> None:
    for field in _fields(kind):
        dest = f"{prefix}{field.name}"
        if field.nested:
            inner = values.setdefault(field.name, {})
            _overlay(field.nested, inner, given, f"{dest}.")
            if not inner:
                del values[field.name]
        elif dest in given:
            values[field.name] = _converted(field, _from_flag(field, given[dest]), str(field.flag))


def _from_flag(field: _Field, text: Any) -> Any:
    origin = get_origin(field.kind)
    if origin is tuple and field.whole:
        return [part for part in text if part]
    if origin is tuple:
        return [part for chunk in text for part in chunk.split(",") if part]
    if origin is dict:
        # thresholds are written signal<amount
        pairs = [part.partition("<" if "<" in part else "=") for chunk in text for part in chunk.split(",") if part]
        bad = next((key for key, sign, _ in pairs if not sign), None)
        if bad:
            raise UsageError(f"{field.flag}: {bad!r} is not of the form key=value")
        return {key: value for key, _, value in pairs}
    if field.kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(str(text).lower(), text)
    if field.kind in (int, float) and not field.duration:
        try:
            return field.kind(text)
        except ValueError:
            return text
    return text


def _converted(field: _Field, value: Any, where: str) -> Any:
    if field.duration:
        try:
            return parse_duration(value)
        except (ValueError, TypeError) as error:
            raise UsageError(f"{where}: {error}") from error
    try:
        return msgspec.convert(value, field.kind, strict=True)
    except msgspec.ValidationError as error:
        if get_origin(field.kind) is Literal and isinstance(value, str):
            known = ", ".join(str(choice) for choice in get_args(field.kind) if choice)
            raise UsageError(f"{where}: unknown value {value!r}; write one of {known}") from error
        raise UsageError(f"{where}: {_plain(str(error))}; found {value!r}") from error


def _plain(message: str) -> str:
    return message.replace("`", "").replace("Expected", "expected").replace("Invalid enum value", "unknown value")


def _build(kind: type[C], values: dict[str, Any], prog: str) -> C:
    for field in _fields(kind):
        if field.nested and field.name in values:
            values[field.name] = _build(field.nested, values[field.name], prog)
        if field.default is msgspec.NODEFAULT and field.name not in values:
            ways = [w for w in (field.flag, f"the key {field.key}" if field.key else None) if w]
            raise UsageError(f"{' or '.join(ways)} is required; see {prog} --help")
    return kind(**values)
