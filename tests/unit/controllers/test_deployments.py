"""Deployments as text dialogues: each file is a conversation, commands behind `> `, what the plan did below.

    deploy KEY=VALUE ...    create the Deployment, or change its spec (image=, replicas=, paused=, strategy=, ...)
    pass                    the Deployment controller looks until it has nothing more to write
    pods                    the ReplicaSet controller makes and removes pods, and reports
    ready N / unready N     the N oldest pods that are not (are) ready change
    wait SECONDS
    sets                    what there is

`pytest --rewrite` writes what was said into the files.
"""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.controllers.paper import Paper, deployment

DIALOGUES = Path(__file__).parent / "dialogues"


class Conversation:
    def __init__(self) -> None:
        self.paper = Paper()

    def say(self, line: str) -> list[str]:
        word, *rest = shlex.split(line)
        self.paper.log = []
        getattr(self, f"do_{word}")(*rest)
        return self.paper.log

    def do_deploy(self, *pairs: str) -> None:
        spec: dict[str, Any] = {}
        for key, _, text in (p.partition("=") for p in pairs):
            value: Any = int(text) if text.isdigit() else {"true": True, "false": False}.get(text, text)
            if key == "image":
                spec["template"] = deployment(image=text)["spec"]["template"]
            elif key in ("maxSurge", "maxUnavailable"):
                spec.setdefault("strategy", {"type": "RollingUpdate"}).setdefault("rollingUpdate", {})[key] = value
            elif key == "strategy":
                spec["strategy"] = {"type": text}
            else:
                spec[key] = value
        if ("Deployment", "web") in self.paper.objects:
            self.paper.amend("Deployment", "web", {"spec": spec})
        else:
            self.paper.create("Deployment", deployment() | {"spec": deployment()["spec"] | spec})

    def do_pass(self) -> None:
        for _ in range(10):
            before = dict(self.paper.objects)
            self.paper.carry_out(self.paper.plan().actions)
            if before == self.paper.objects:
                return

    def do_pods(self) -> None:
        for replica_set in self.paper.sets():
            self.paper.count(replica_set)
            self.paper.report(next(s for s in self.paper.sets() if s.metadata.uid == replica_set.metadata.uid))
        self.do_sets()

    def do_ready(self, count: str) -> None:
        self._turn(int(count), "True")

    def do_unready(self, count: str) -> None:
        self._turn(int(count), "False")

    def _turn(self, count: int, status: str) -> None:
        def is_ready(pod: Any) -> bool:
            return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)

        for pod in [p for p in self.paper.pods() if is_ready(p) != (status == "True")][:count]:
            self.paper.ready(pod, status)
        for replica_set in self.paper.sets():
            self.paper.report(replica_set)
        self.do_sets()

    def do_wait(self, seconds: str) -> None:
        self.paper.pass_(float(seconds))

    def do_sets(self) -> None:
        for s in self.paper.sets():
            revision = s.metadata.annotations.get("deployment.kubernetes.io/revision")
            image = s.spec.template
            found = bytes(image).split(b'"image":"')[1].split(b'"')[0].decode()
            self.paper.log.append(
                f"{s.metadata.name} image={found} revision={revision} asked={s.spec.replicas} "
                f"there={s.status.replicas} available={s.status.available_replicas}"
            )


@pytest.mark.parametrize("name", sorted(p.stem for p in DIALOGUES.glob("*.txt")))
def test_dialogue(name: str, golden: Callable[[Path, str], None]) -> None:
    path = DIALOGUES / f"{name}.txt"
    conversation = Conversation()
    said: list[str] = []
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            said.append(line)
        elif line.startswith("> "):
            said += ["", line, *conversation.say(line[2:])]
    golden(path, "\n".join(said) + "\n")
