"""`kubectl explain` and `kubectl api-resources`: every kind with every kubectl, against the schema table itself."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

from apiserver import schema
from apiserver.schema import Field, ResourceInfo, Shape
from tests.node.apiserver import Server, running
from tests.requirements import kubectls, requires

_LINE = re.compile(r"^(?P<indent> +)(?P<name>\S+)\t<(?P<type>[^>]+)>", re.MULTILINE)
_WORDS = {
    "bool": "boolean",
    "int32": "integer",
    "int64": "integer",
    "double": "number",
    "byte": "string",
    "any": "Object",
    "Time": "string",
    "MicroTime": "string",
}


async def kubectl(path: str, server: Server, home: Path, *argv: str, code: int = 0) -> str:
    environment = os.environ | {"KUBECONFIG": str(server.kubeconfig), "HOME": str(home)}
    child = await asyncio.create_subprocess_exec(
        path, *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment
    )
    out, _ = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode == code, f"{Path(path).name} {' '.join(argv)}: {out.decode()}"
    return out.decode()


def spelt(field: Field) -> str:
    name = field.named or field.type
    lists = name.count("[]")
    short = name.rsplit(".", 1)[-1].removeprefix("[]")
    word = _WORDS.get(short, short)
    return {Shape.ONE: "", Shape.LIST: "[]", Shape.MAP: "map[string]"}[field.shape] + "[]" * lists + word


def wanted(one: ResourceInfo) -> dict[str, str]:
    found = schema.type_of(one.gvk)
    assert found is not None
    return {name: spelt(field) for name, field in found.fields.items()}


async def explained(path: str, server: Server, home: Path, one: ResourceInfo, *flags: str) -> str:
    return await kubectl(path, server, home, "explain", one.plural, f"--api-version={one.group_version}", *flags)


async def test_every_kind_is_explained(tmp_path: Path) -> None:
    requires("kubectl")
    rows = [one for one in schema.served() if "get" in one.verbs]
    versions = kubectls()
    async with running(tmp_path) as server:
        two = asyncio.Semaphore(2)

        async def check(path: str, one: ResourceInfo) -> None:
            async with two:
                text = await explained(path, server, tmp_path / Path(path).name, one)
                assert f"KIND:       {one.kind}\n" in text
                found = {line["name"]: line["type"] for line in _LINE.finditer(text) if len(line["indent"]) == 2}
                assert found == wanted(one), f"{Path(path).name} {one.plural}"

        async with asyncio.TaskGroup() as group:
            for number, one in enumerate(rows):  # the newest asks for every kind, the others take turns
                for path in {versions[-1], versions[number % len(versions)]}:
                    group.create_task(check(path, one))
        for path in versions:
            home = tmp_path / Path(path).name
            tree = await kubectl(path, server, home, "explain", "deployments", "--recursive")
            assert "\n            containerPort\t<integer> -required-\n" in tree
            assert tree.count("\tlivenessProbe") <= tree.count("\treadinessProbe") + 1
            deep = await kubectl(
                path, server, home, "explain", "pods.spec.volumes.projected.sources.serviceAccountToken"
            )
            assert "expirationSeconds\t<integer>" in deep
            assert "<Object>" not in await kubectl(
                path, server, home, "explain", "pods.spec.containers.resources.limits"
            )


MISSPELT = """\
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplica: 3
  maxReplicas: 3
"""


async def test_misspelt_fields_are_refused_told_or_dropped_as_asked(tmp_path: Path) -> None:
    requires("kubectl")
    manifest = tmp_path / "misspelt.yaml"
    manifest.write_text(MISSPELT)
    doubled = tmp_path / "doubled.json"
    doubled.write_text('{"kind": "HorizontalPodAutoscaler", "kind": "HorizontalPodAutoscaler"}')
    async with running(tmp_path) as server:
        for path in kubectls():
            home = tmp_path / Path(path).name
            create = ("create", "--dry-run=server", "-f", str(manifest))
            refused = await kubectl(path, server, home, *create, "--validate=strict", code=1)
            assert 'strict decoding error: unknown field "spec.maxReplica"' in refused
            told = await kubectl(path, server, home, *create, "--validate=warn")
            assert 'Warning: unknown field "spec.maxReplica"' in told
            assert "Warning" not in await kubectl(path, server, home, *create, "--validate=ignore")
            twice = await kubectl(path, server, home, "create", "--raw", RAW, "-f", str(doubled), code=1)
            assert 'strict decoding error: duplicate field "kind"' in twice


RAW = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers?fieldValidation=Strict"


async def test_every_kubectl_sees_every_resource(tmp_path: Path) -> None:
    requires("kubectl")
    async with running(tmp_path) as server:
        for path in kubectls():
            text = await kubectl(
                path, server, tmp_path / Path(path).name, "api-resources", "--no-headers", "-o", "wide"
            )
            shown = {line.split()[0] for line in text.splitlines()}
            assert shown >= {one.plural for one in schema.served()}
            hpa = next(line for line in text.splitlines() if line.startswith("horizontalpodautoscalers"))
            assert hpa.split()[1:3] == ["hpa", "autoscaling/v2"]
            names = await kubectl(path, server, tmp_path / Path(path).name, "api-versions")
            assert set(names.split()) >= {one.group_version for one in schema.served()}
            everything = await kubectl(path, server, tmp_path / Path(path).name, "get", "all,hpa,crd,csr,ing,pdb", "-A")
            assert "service/kubernetes" in everything
