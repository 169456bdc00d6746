"""Applying and editing as people do it, with every kubectl there is: client-side, server-side, and from one to the other.

A real API server, no controllers; each kubectl has a namespace of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.node.apiserver import Server, running
from tests.requirements import kubectls, requires

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: web:1
        ports: [{containerPort: 80}]
"""
ONE, TWO, THREE = (DEPLOYMENT.replace("REPLICAS", str(count)) for count in (1, 2, 3))
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}PORTS]}
"""
REPLICAS_OF_OTHERS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {replicas: 9}
"""
MISSPELT = DEPLOYMENT.replace("REPLICAS", "1").replace("replicas:", "replikas:")
TWICE = """\
apiVersion: v1
kind: Pod
metadata: {name: twice}
spec: {containers: [{name: a, image: a:1}, {name: a, image: a:2}]}
"""
CONFLICT = 'Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas'


@dataclass(frozen=True, slots=True)
class Step:
    """A command, what it prints, and how it ends."""

    command: str
    prints: str
    stdin: str = ""
    code: int = 0


CLIENT_SIDE = (
    Step("apply -f -", "deployment.apps/web created", ONE),
    Step("apply -f -", "deployment.apps/web unchanged", ONE),
    Step("diff -f -", "", ONE),
    Step("diff -f -", "+  replicas: 2", TWO, code=1),
    Step("apply -f - --dry-run=server", "deployment.apps/web configured (server dry run)", TWO),
    Step("get deployment web -o jsonpath={.spec.replicas}", "1"),
    Step("apply -f -", "deployment.apps/web configured", TWO),
    Step("apply -f -", "service/web created", SERVICE.replace("PORTS", ", {name: more, port: 81}")),
    Step("apply -f -", "service/web configured", SERVICE.replace("PORTS", "")),
    Step("get service web -o jsonpath={.spec.ports[*].name}", "http dns"),
    Step("apply -f -", 'unknown field "spec.replikas"', MISSPELT, code=1),
)
MIGRATION = (
    Step("apply --server-side -f -", "deployment.apps/web serverside-applied", TWO),
    Step("apply --server-side -f -", "deployment.apps/web serverside-applied", THREE),
    Step("get deployment web -o jsonpath={.spec.replicas}", "3"),
    Step("apply -f -", "deployment.apps/web configured", ONE),
    Step("apply --server-side -f -", "deployment.apps/web serverside-applied", TWO),
    Step("get deployment web -o jsonpath={.spec.replicas}", "2"),
)
SERVER_SIDE = (
    Step("apply --server-side --field-manager=other -f -", CONFLICT, REPLICAS_OF_OTHERS, code=1),
    Step("apply --server-side --field-manager=other --force-conflicts -f -", "serverside-applied", REPLICAS_OF_OTHERS),
    Step("get deployment web -o jsonpath={.spec.replicas}", "9"),
    Step("apply --server-side -f -", 'conflict with "other": .spec.replicas', TWO, code=1),
    Step("diff --server-side --force-conflicts -f -", "+  replicas: 2", TWO, code=1),
    Step("apply --server-side -f -", "serverside-applied", TWO.replace("  replicas: 2\n", "")),
    Step("diff --server-side -f -", "", TWO.replace("  replicas: 2\n", "")),
    Step("get deployment web -o jsonpath={.spec.replicas}", "9"),
    Step("apply --server-side -f -", 'duplicate entries for key [name="a"]', TWICE, code=1),
    Step(
        "apply --server-side --dry-run=server -f -",
        "serverside-applied (server dry run)",
        TWICE.replace("a:2", "b:2").replace("{name: a, image: b", "{name: b, image: b"),
    ),
    Step("get pod twice", "not found", code=1),
)
CHANGES = (
    Step("set image deployment/web web=web:2", "image updated"),
    Step("set env deployment/web COLOUR=red SIZE=1", "env updated"),
    Step("set env deployment/web SIZE-", "env updated"),
    Step("get deployment web -o jsonpath={..env}", '[{"name":"COLOUR","value":"red"}]'),
    Step("set resources deployment/web --limits=cpu=200m,memory=64Mi", "resource requirements updated"),
    Step("get deployment web -o jsonpath={..image}:{..limits.cpu}", "web:2:200m"),
    Step("label deployment web tier=front", "labeled"),
    Step("label deployment web tier=back", "already has a value", code=1),
    Step("label deployment web tier-", "unlabeled"),
    Step("annotate deployment web note=first", "annotate"),
    Step("scale deployment web --replicas=4", "scaled"),
    Step("get deployment web -o jsonpath={.spec.replicas}", "4"),
    Step('patch deployment web --type=merge -p {"spec":{"replicas":5}}', "patched"),
    Step('patch deployment web --type=merge -p {"spec":{"replicas":5}}', "patched (no change)"),
    Step('patch deployment web -p {"spec":{"template":{"spec":{"containers":[{"name":"web","image":"web:3"}]}}}}', "patched"),
    Step('patch deployment web --type=json -p [{"op":"remove","path":"/metadata/annotations/note"}]', "patched"),
    Step('patch deployment web --type=json -p [{"op":"test","path":"/spec/replicas","value":7}]', "", code=1),
    Step("edit deployment web", "deployment.apps/web edited"),
    Step("get deployment web -o jsonpath={..env[0].value}", "blue"),
    Step("edit deployment web", "Edit cancelled, no changes made"),
)  # fmt: skip
STEPS = (*CLIENT_SIDE, *MIGRATION, *SERVER_SIDE, *CHANGES)


class Person:
    """One kubectl, one namespace; `sed` for an editor."""

    def __init__(self, path: str, server: Server) -> None:
        self.namespace = "v" + Path(path).name.removeprefix("kubectl").replace(".", "")
        folder = server.directory / self.namespace
        folder.mkdir()
        self._argv = [path, "--kubeconfig", str(server.kubeconfig), "--cache-dir", str(folder), "-n", self.namespace]
        editor = folder / "editor"
        editor.write_text('#!/bin/sh\nexec sed -i s/red/blue/ "$1"\n')
        editor.chmod(0o755)
        self._environment = os.environ | {"EDITOR": str(editor), "KUBE_EDITOR": str(editor)}

    async def does(self, step: Step) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._argv, *step.command.split(), stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT,
            env=self._environment,
        )  # fmt: skip
        async with asyncio.timeout(60):
            output = (await process.communicate(step.stdin.encode()))[0].decode()
        assert process.returncode == step.code, (
            f"{self.namespace}: kubectl {step.command}: {process.returncode}: {output}"
        )
        assert step.prints in output, f"{self.namespace}: kubectl {step.command}: {output}"
        return output

    async def gets(self, what: str) -> Any:
        return json.loads(await self.does(Step(f"get {what} -o json --show-managed-fields", "")))

    async def works(self) -> None:
        await self.does(Step(f"create namespace {self.namespace}", "created"))
        for step in STEPS:
            await self.does(step)
        await self._owners()
        await self._replaces()

    async def _owners(self) -> None:
        """After all that: who owns what."""
        shown = await self.gets("deployment web")
        owners = {
            (one["manager"], one["operation"], one.get("subresource", "")): one["fieldsV1"]
            for one in shown["metadata"]["managedFields"]
        }
        applier = owners["kubectl", "Apply", ""]
        assert applier["f:metadata"]["f:labels"] == {"f:app": {}}
        assert "f:replicas" not in applier["f:spec"]
        assert ("other", "Apply", "") not in owners  # kubectl scale took the one field it had
        assert owners["kubectl-patch", "Update", ""]["f:spec"]["f:replicas"] == {}
        containers = owners["kubectl-set", "Update", ""]["f:spec"]["f:template"]["f:spec"]["f:containers"]
        assert containers['k:{"name":"web"}']["f:resources"]["f:limits"].keys() == {".", "f:cpu", "f:memory"}
        environment = owners["kubectl-edit", "Update", ""]["f:spec"]["f:template"]["f:spec"]["f:containers"]
        assert environment['k:{"name":"web"}']["f:env"] == {'k:{"name":"COLOUR"}': {"f:value": {}}}
        hidden = await self.does(Step("get deployment web -o yaml", "kind: Deployment"))
        assert "managedFields" not in hidden

    async def _replaces(self) -> None:
        shown = await self.gets("deployment web")
        stale = json.loads(json.dumps(shown))
        shown["spec"]["replicas"] = 6
        del shown["metadata"]["managedFields"]
        await self.does(Step("replace -f -", "deployment.apps/web replaced", json.dumps(shown)))
        await self.does(Step("replace -f -", "the object has been modified", json.dumps(stale), code=1))
        after = await self.gets("deployment web")
        names = {one["manager"] for one in after["metadata"]["managedFields"]}
        assert "kubectl-replace" in names
        assert "kubectl" in names


async def test_every_kubectl_applies(tmp_path: Path) -> None:
    requires("kubectl", "diff", "sed")
    async with running(tmp_path) as server:
        turns = asyncio.Semaphore(2)

        async def work(path: str) -> None:
            async with turns:
                await Person(path, server).works()

        async with asyncio.TaskGroup() as group:
            for path in kubectls():
                group.create_task(work(path))
