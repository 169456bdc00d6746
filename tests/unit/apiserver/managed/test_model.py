"""Server-side apply against a model that is written differently: a flat table of paths, each with a value and its owners.

The model knows nothing of tries, shapes or merging walks. Several managers apply and update at random, with and without
force; after each step the object, who owns what, and every conflict must be what the table says.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiserver.errors import StatusError
from apiserver.managed import applying, tracking
from apiserver.registry import Registry, Resource

Obj = dict[str, Any]
Path = tuple[str, ...]
Table = dict[Path, Any]

DEPLOYMENTS = Registry().find("apps", "v1", "deployments")
MANAGERS = ("one", "two", "three")
ANCHOR = {"anchor": "1"}  # nobody touches it, so the object always has an owner: without any it is not tracked
HEAD = {"apiVersion": "apps/v1", "kind": "Deployment"}

texts = st.sampled_from(["i", "j"])
container = st.fixed_dictionaries(
    {},
    optional={
        "image": texts,
        "args": st.lists(texts, min_size=1, max_size=2),
        "env": st.dictionaries(st.sampled_from(["E", "F"]), texts, min_size=1),
    },
)
wishes = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.dictionaries(st.sampled_from(["x", "y", "z"]), texts, min_size=1),
        "finalizers": st.lists(st.sampled_from(["a/f", "b/f", "c/f"]), min_size=1, max_size=3, unique=True),
        "replicas": st.integers(1, 3),
        "containers": st.dictionaries(st.sampled_from(["c", "d"]), container, min_size=1),
    },
)
steps = st.tuples(st.sampled_from(MANAGERS), st.sampled_from(["apply", "force", "update"]), wishes)


def to_object(wish: Obj) -> Obj:
    """The Deployment that says just that."""
    metadata: Obj = {"name": "web"} | {key: wish[key] for key in ("labels", "finalizers") if key in wish}
    spec: Obj = {"replicas": wish["replicas"]} if "replicas" in wish else {}
    if "containers" in wish:
        listed = []
        for name, one in wish["containers"].items():
            env = [{"name": key, "value": value} for key, value in one.get("env", {}).items()]
            rest = {key: value for key, value in one.items() if key != "env"}
            listed.append({"name": name, **rest} | ({"env": env} if env else {}))
        spec["template"] = {"spec": {"containers": listed}}
    return HEAD | {"metadata": metadata} | ({"spec": spec} if spec else {})


def flat(obj: Obj) -> Table:
    """Every value and every element by its path; an element's own path stands for its being there."""
    metadata, spec = obj["metadata"], obj.get("spec", {})
    table: Table = {("labels", key): one for key, one in metadata.get("labels", {}).items()}
    table |= {("finalizers", one): True for one in metadata.get("finalizers", ())}
    if "replicas" in spec:
        table["replicas",] = spec["replicas"]
    for one in spec.get("template", {}).get("spec", {}).get("containers", ()):
        here: Path = ("containers", one["name"])
        table[here] = True
        table |= {(*here, key): str(one[key]) for key in ("name", "image", "args") if key in one}
        for variable in one.get("env", ()):
            table[(*here, "env", variable["name"])] = True
            table |= {
                (*here, "env", variable["name"], key): variable[key] for key in ("name", "value") if key in variable
            }
    return table


def owned(obj: Obj) -> dict[tuple[str, str], set[Path]]:
    """What the list in metadata says, in the same paths."""
    found: dict[tuple[str, str], set[Path]] = {}
    for one in obj["metadata"].get("managedFields", ()):
        paths: set[Path] = set()
        fields = one["fieldsV1"]
        for step in fields.get("f:metadata", {}).get("f:labels", {}):
            paths |= {("labels", step[2:])} if step != "." else set()
        for step in fields.get("f:metadata", {}).get("f:finalizers", {}):
            paths |= {("finalizers", step[3:-1])} if step != "." else set()
        if "f:replicas" in fields.get("f:spec", {}):
            paths.add(("replicas",))
        template = fields.get("f:spec", {}).get("f:template", {}).get("f:spec", {}).get("f:containers", {})
        _elements(template, ("containers",), paths)
        if paths:
            found[one["manager"], one["operation"]] = paths
    return found


def _elements(fields: Obj, here: Path, paths: set[Path]) -> None:
    for step, below in fields.items():
        if step == ".":
            continue
        path = (*here, step[len('k:{"name":"') : -2])
        if not below or "." in below:
            paths.add(path)
        for inner, deeper in below.items():
            if inner == "f:env":
                _elements(deeper, (*path, "env"), paths)
            elif inner != ".":
                paths.add((*path, inner[2:]))


@dataclass
class Model:
    """`owners`: (manager, operation) -> paths."""

    values: Table = field(default_factory=dict)
    owners: dict[tuple[str, str], set[Path]] = field(default_factory=dict)

    def conflicts(self, me: tuple[str, str], wanted: Table) -> set[tuple[str, Path]]:
        changed = {path for path, one in wanted.items() if self.values.get(path) != one}
        return {(who[0], path) for who, paths in self.owners.items() if who != me for path in paths & changed}

    def apply(self, manager: str, wanted: Table) -> None:
        me = (manager, "Apply")
        before = dict(self.values)
        self.values |= wanted
        for path in self.owners.get(me, set()) - wanted.keys():
            if not any(path in paths for who, paths in self.owners.items() if who != me):
                self._drop(path)
        self._settle(me, before)
        self.owners[me] = set(wanted)
        if not wanted:
            del self.owners[me]

    def update(self, manager: str, wanted: Table) -> None:
        me = (manager, "Update")
        before = self.values
        self.values = dict(wanted)
        changed = {path for path, one in wanted.items() if before.get(path) != one}
        self._settle(None, before)
        if changed:
            self.owners[me] = self.owners.get(me, set()) | changed

    def _drop(self, path: Path) -> None:
        """An element goes with all that is in it."""
        for one in [one for one in self.values if one[: len(path)] == path]:
            del self.values[one]

    def _settle(self, me: tuple[str, str] | None, before: Table) -> None:
        differ = {path for path in before.keys() | self.values.keys() if before.get(path) != self.values.get(path)}
        for who in [who for who in self.owners if who != me]:
            self.owners[who] -= differ
            if not self.owners[who]:
                del self.owners[who]


def writer(manager: str, second: int) -> tracking.Writer:
    assert isinstance(DEPLOYMENTS, Resource)
    return tracking.Writer(DEPLOYMENTS, manager, f"2026-01-01T00:00:{second % 60:02}Z")


def conflicts_of(error: StatusError) -> set[tuple[str, str]]:
    causes = (error.details or {})["causes"]
    return {(one["message"].split('"')[1], one["field"]) for one in causes}


def spelt(path: Path) -> str:
    match path:
        case ("labels", key):
            return f".metadata.labels.{key}"
        case ("finalizers", one):
            return f'.metadata.finalizers[="{one}"]'
        case ("replicas",):
            return ".spec.replicas"
        case _:
            text = ".spec.template.spec"
            for index, part in enumerate(path):
                named = index and path[index - 1] in ("containers", "env")
                text += f'[name="{part}"]' if named else f".{part}"
            return text


@given(st.lists(steps, min_size=1, max_size=8))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_owners_and_values_are_those_of_the_table(script: list[tuple[str, str, Obj]]) -> None:
    live: Obj = HEAD | {"metadata": {"name": "web", "uid": "1"}}
    tracked = HEAD | {"metadata": {"name": "web", "labels": {"first": "i"}, "annotations": ANCHOR}}
    tracking.created(writer("creator", 0), tracked)
    live["metadata"] |= tracked["metadata"]
    model = Model({("labels", "first"): "i"}, {("creator", "Update"): {("labels", "first")}})
    for second, (manager, verb, wish) in enumerate(script, 1):
        asked, table = to_object(wish), flat(to_object(wish))
        if verb == "update":
            asked["metadata"] |= {"uid": "1", "annotations": ANCHOR}
            tracking.updated(writer(manager, second), live, asked)
            live = asked
            model.update(manager, table)
        else:
            expected = model.conflicts((manager, "Apply"), table)
            try:
                live = applying.apply(writer(manager, second), live, asked, force=verb == "force")
                refused = set()
            except StatusError as error:
                refused = conflicts_of(error)
            if verb == "apply":
                assert refused == {(who, spelt(path)) for who, path in expected}
            else:
                assert not refused
            if not refused:
                model.apply(manager, table)
        assert flat(live) == model.values
        assert owned(live) == model.owners


@given(wishes, wishes)
@settings(max_examples=25, deadline=None)
def test_what_was_applied_is_there_and_applying_it_again_changes_nothing(first: Obj, second: Obj) -> None:
    live = applying.apply(writer("one", 0), None, to_object(first), force=False)
    live["metadata"]["uid"] = "1"
    live = applying.apply(writer("one", 1), live, to_object(second), force=False)
    assert flat(live) == flat(to_object(second))
    again = applying.apply(writer("one", 2), live, to_object(second), force=False)
    assert again == live


@given(wishes, wishes)
@settings(max_examples=25, deadline=None)
def test_appliers_of_different_fields_come_to_the_same_in_either_order(first: Obj, second: Obj) -> None:
    mine, yours = to_object(first), to_object(second)
    if any(flat(yours).get(path, one) != one for path, one in flat(mine).items()):
        return  # they disagree
    ends = []
    for order in ((("one", mine), ("two", yours)), (("two", yours), ("one", mine))):
        live = None
        for manager, asked in order:
            live = applying.apply(writer(manager, 0), live, asked, force=False)
            live["metadata"]["uid"] = "1"
        assert live is not None
        ends.append((flat(live), owned(live)))
    assert ends[0] == ends[1]
