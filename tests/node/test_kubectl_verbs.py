"""What people type, with every kubectl there is: one table of commands, our centre, and nodes that start whatever they get.

Each kubectl has a namespace of its own; two are at work at a time.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.centre import Centre, centre
from tests.fakes.node import fake_nodes
from tests.requirements import kubectls, requires

SETTINGS = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: COLOUR}\n"


@dataclass(frozen=True, slots=True)
class Step:
    """A command, what it prints, and how it ends."""

    command: str
    prints: str
    stdin: str = ""
    code: int = 0


DEPLOY = (
    Step("create deployment web --image=web:1 --replicas=2", "deployment.apps/web created"),
    Step("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    Step("wait --for=condition=Available deployment/web --timeout=40s", "deployment.apps/web condition met"),
    Step("expose deployment web --port=80", "service/web exposed"),
    Step("run one --image=web:1 --labels=app=one", "pod/one created"),
    Step("wait --for=condition=Ready pod/one --timeout=40s", "pod/one condition met"),
    Step("label deployment web tier=front", "labeled"),
    Step("get deployments -l tier=front -o name", "deployment.apps/web"),
    Step("annotate deployment web kubernetes.io/change-cause=first", "annotate"),
    Step("set image deployment/web web=web:2", "image updated"),
    Step("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    Step("rollout history deployment/web", "2 "),
    Step("rollout history deployment/web --revision=1", "web:1"),
    Step("rollout undo deployment/web", "rolled back"),
    Step("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    Step("get deployment web -o jsonpath={..image}", "web:1"),
    Step("rollout restart deployment/web", "restarted"),
    Step("rollout status deployment/web --timeout=40s", "successfully rolled out"),
    Step("scale deployment web --replicas=3", "scaled"),
    Step("wait --for=jsonpath={.status.readyReplicas}=3 deployment/web --timeout=40s", "condition met"),
)
CHANGE = (
    Step("apply -f -", "configmap/settings created", SETTINGS.replace("COLOUR", "red")),
    Step("diff -f -", "+  colour: green", SETTINGS.replace("COLOUR", "green"), code=1),
    Step("diff -f -", "", SETTINGS.replace("COLOUR", "red")),
    Step("edit configmap settings", "configmap/settings edited"),
    Step("get configmap settings -o jsonpath={.data.colour}", "blue"),
    Step("edit configmap settings", "Edit cancelled, no changes made"),
)
NODE = (
    Step("taint nodes NODE tested-NAMESPACE=yes:NoSchedule", "node/NODE tainted"),
    Step("taint nodes NODE tested-NAMESPACE-", "node/NODE untainted"),
    Step("cordon NODE", "node/NODE"),
    Step("drain NODE --pod-selector=app=one --force --timeout=40s", "node/NODE drained"),
    Step("get pods -l app=one", "No resources found"),
    Step("uncordon NODE", "node/NODE"),
)
CLEAN = (
    Step("delete deployment,service web", 'service "web" deleted'),
    Step("delete namespace NAMESPACE --timeout=40s", 'namespace "NAMESPACE" deleted'),
)


class Person:
    """One kubectl, one namespace; `sed` for an editor."""

    def __init__(self, path: str, made: Centre) -> None:
        self.namespace = "v" + Path(path).name.removeprefix("kubectl").replace(".", "")
        folder = made.folder / self.namespace
        folder.mkdir()
        self._argv = [path, "--kubeconfig", str(made.kubeconfig), "--cache-dir", str(folder), "-n", self.namespace]
        editor = folder / "editor"
        editor.write_text('#!/bin/sh\nexec sed -i s/red/blue/ "$1"\n')
        editor.chmod(0o755)
        self._environment = os.environ | {"EDITOR": str(editor), "KUBE_EDITOR": str(editor)}

    async def start(self, *argv: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self._argv, *argv, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=self._environment
        )

    async def does(self, step: Step, node: str = "") -> str:
        command = step.command.replace("NAMESPACE", self.namespace).replace("NODE", node)
        process = await self.start(*command.split())
        async with asyncio.timeout(60):
            output = (await process.communicate(step.stdin.encode()))[0].decode()
        wanted = step.prints.replace("NAMESPACE", self.namespace).replace("NODE", node)
        assert process.returncode == step.code, f"{self.namespace}: kubectl {command}: {process.returncode}: {output}"
        assert wanted in output, f"{self.namespace}: kubectl {command}: {output}"
        return output

    async def watches(self) -> None:
        """`get -w` shows what there is, and then what changes."""
        process = await self.start("get", "configmap", "settings", "-w")
        assert process.stdout
        try:
            async with asyncio.timeout(40):
                assert (await process.stdout.readline()).split()[:2] == [b"NAME", b"DATA"]
                assert (await process.stdout.readline()).split()[:2] == [b"settings", b"1"]
                await self.does(Step('patch configmap settings --type=merge -p {"data":{"more":"x"}}', "patched"))
                assert (await process.stdout.readline()).split()[:2] == [b"settings", b"2"]
        finally:
            process.terminate()
            await process.wait()

    async def works(self) -> None:
        await self.does(Step("create namespace NAMESPACE", "namespace/NAMESPACE created"))
        for step in (*DEPLOY, *CHANGE):
            await self.does(step)
        await self.watches()
        node = await self.does(Step("get pod one -o jsonpath={.spec.nodeName}", "node"))
        for step in NODE:
            await self.does(step, node)
        for step in CLEAN:
            await self.does(step)


async def test_every_kubectl(tmp_path: Path) -> None:
    requires("kubectl", "diff", "sed")
    two = asyncio.Semaphore(2)
    async with centre(tmp_path) as made, made.client() as client, fake_nodes(client, 3):

        async def turn(person: Person) -> None:
            async with two:
                await person.works()

        async with asyncio.TaskGroup() as group:
            for path in kubectls():
                group.create_task(turn(Person(path, made)))
