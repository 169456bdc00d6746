"""The committed table says what upstream's documents say, and the generator reads them as described."""

import json
import re
from pathlib import Path

import pytest

from apiserver import schema
from apiserver.schema import GVK, Shape, generate


def test_every_served_row_is_in_the_table() -> None:
    for one in schema.served():
        assert schema.resource(one.group, one.version, one.plural) is one
        assert schema.type_of(one.gvk) is not None
        assert re.fullmatch(r"v\d+", one.version)
    assert len(schema.served()) == 67


def test_what_is_not_served_is_known_but_not_offered() -> None:
    assert schema.resource("apiregistration.k8s.io", "v1", "apiservices") is None
    assert schema.type_of(("apiregistration.k8s.io", "v1", "APIService")) is not None
    assert schema.type_of(("nonsense", "v1", "Thing")) is None


def test_merge_keys_and_list_keys_stay_apart() -> None:
    ports = schema.named("io.k8s.api.core.v1.Container").fields["ports"]
    assert ports.shape is Shape.LIST
    assert ports.merge_key == "containerPort"
    assert ports.list_keys == ("containerPort", "protocol")
    assert ports.strategies == {"merge"}


def test_omission_follows_pointers_not_types() -> None:
    deployment = schema.named("io.k8s.api.apps.v1.DeploymentSpec").fields
    assert not deployment["replicas"].omit  # a pointer: replicas: 0 is a wish
    assert deployment["minReadySeconds"].omit
    assert not schema.named("io.k8s.api.core.v1.Container").fields["resources"].omit  # a struct is never empty in Go


def test_meta_kinds_appear_under_every_group_version() -> None:
    assert schema.type_name(("apps", "v1", "DeleteOptions")) == schema.type_name(("", "v1", "DeleteOptions"))


def test_group_version_kind_reads_api_versions() -> None:
    assert GVK.of({"apiVersion": "apps/v1", "kind": "Deployment"}) == ("apps", "v1", "Deployment")
    assert GVK.of({"apiVersion": "v1", "kind": "Pod"}).api_version == "v1"


def _documents(folder: Path) -> Path:
    gvk = [{"group": "toys.example", "kind": "Boat", "version": "v1"}]
    definitions = {
        "io.k8s.api.toys.v1.Boat": {
            "type": "object",
            "x-kubernetes-group-version-kind": gvk,
            "required": ["oars"],
            "properties": {
                "oars": {"type": "integer", "format": "int32", "description": "prose that must not be copied"},
                "crew": {
                    "type": "array",
                    "items": {"$ref": "#/definitions/io.k8s.api.toys.v1.Sailor"},
                    "x-kubernetes-patch-merge-key": "name",
                    "x-kubernetes-patch-strategy": "merge",
                },
                "flags": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        },
        "io.k8s.api.toys.v1.Sailor": {"type": "object", "properties": {"name": {"type": "string"}}},
        "io.k8s.api.toys.v1beta1.Boat": {"type": "object", "properties": {"old": {"type": "string"}}},
    }
    (folder / "swagger.json").write_text(json.dumps({"info": {"version": "v1.0"}, "definitions": definitions}))
    (folder / "discovery").mkdir()
    row = {"singularName": "boat", "kind": "Boat", "namespaced": True, "verbs": ["get"]}
    core = {"groupVersion": "v1", "resources": []}
    toys = {"groupVersion": "toys.example/v1", "resources": [{"name": "boats", **row}, {"name": "boats/status", **row}]}
    (folder / "discovery" / "api__v1.json").write_text(json.dumps(core))
    (folder / "discovery" / "apis__toys.example__v1.json").write_text(json.dumps(toys))
    return folder


def test_the_generator_takes_shapes_keys_and_flags_but_no_prose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = tmp_path / "fields.json"
    fields.write_text(
        json.dumps(
            {
                "k8s.io.api.toys.v1.Boat": {
                    "1": ["oars", "int32", "op"],
                    "2": ["crew", "k8s.io.api.toys.v1.Sailor", "re"],
                    "3": ["flags", "string", "me"],
                },
                "k8s.io.api.toys.v1beta1.Boat": {"1": ["old", "string", "o"]},
            }
        )
    )
    monkeypatch.setattr(generate, "HERE", tmp_path)
    assert generate.main(["--openapi", str(_documents(tmp_path)), "--protobuf-fields", str(fields)]) == 0
    first = (tmp_path / "types.json.gz").read_bytes()
    swagger = json.loads((tmp_path / "swagger.json").read_text())
    types = generate.types_of(swagger["definitions"], json.loads(fields.read_text()))
    assert set(types) == {"io.k8s.api.toys.v1.Boat", "io.k8s.api.toys.v1.Sailor"}
    boat = types["io.k8s.api.toys.v1.Boat"]
    assert boat.fields["oars"].required
    assert not boat.fields["oars"].omit
    assert boat.fields["crew"].merge_key == "name"
    assert boat.fields["flags"].shape is Shape.MAP
    assert boat.fields["flags"].omit
    (resource,) = generate.resources_of(tmp_path / "discovery")
    assert resource.subresource("status") is not None
    assert generate.main(["--openapi", str(tmp_path), "--protobuf-fields", str(fields)]) == 0
    assert (tmp_path / "types.json.gz").read_bytes() == first  # reproducible
    assert b"prose" not in generate.gzip.decompress(first)


def test_the_generator_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generate.main(["--openapi", str(tmp_path), "--protobuf-fields", "x"])
    assert "no swagger.json there" in capsys.readouterr().err
