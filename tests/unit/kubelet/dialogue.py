"""The words of the dialogues.

pod restart=OnFailure init=setup,proxy+ containers=web,crash grace=30     `+` makes an init container a sidecar; and:
    startup=proxy,web (they have a startup probe)   hooks=web:5 (preStop, seconds)   policy=web:Never   rule=web:42/43
pass                      plan, do, look again, until there is nothing left to do; every step is printed
step N                    the same, but the kubelet is killed after N steps
exit NAME CODE            the newest container of that name ends
later SECONDS exit NAME CODE | later SECONDS grace N       the same, or a second delete, while the pod ends
slow NAME SECONDS         how long it takes from SIGTERM to the end        answers NAME CODE: with which code it ends then
advance SECONDS
fail NAME liveness|startup        ready NAME | unready NAME | started NAME (its startup probe has succeeded)
unknown NAME | created NAME       what the runtime says of its newest container
sandbox dies | sandbox loses its address | wipe NAME (its remains are removed behind our back)
image NAME IMAGE          the author changes the image
debug NAME [TARGET]       an ephemeral container is added
refuse NAME REASON        starting it fails, again and again 10 s later; allow NAME
delete [GRACE]            stop, as the API asks; orphaned: stop, the API knows nothing of it; removed: take away what is left
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta

import msgspec

from kube.meta import ObjectMeta
from kube.pods import (
    Container,
    ContainerRestartRule,
    EphemeralContainer,
    ExecAction,
    Lifecycle,
    LifecycleHandler,
    Pod,
    PodSpec,
    Probe,
    RestartRuleOnExitCodes,
)
from kubelet import plan
from kubelet.model import Health, Verdict
from kubelet.runtime import ContainerState, SandboxState
from tests.unit.kubelet.world import KilledError, World


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split(",") if pair)


def make_pod(**options: str) -> Pod:
    startup = options.get("startup", "").split(",")
    hooks, policies = _pairs(options.get("hooks", "")), _pairs(options.get("policy", ""))
    rules = _pairs(options.get("rule", ""))

    def one(word: str) -> Container:
        name = word.rstrip("+")
        codes = tuple(int(code) for code in rules.get(name, "").split("/") if code)
        rule = ContainerRestartRule(action="Restart", exit_codes=RestartRuleOnExitCodes(operator="In", values=codes))
        hook = Lifecycle(pre_stop=LifecycleHandler(exec=ExecAction(command=("bye",))))
        return Container(
            name=name,
            image=f"{name}:1",
            restart_policy="Always" if word.endswith("+") else policies.get(name),
            restart_policy_rules=(rule,) if codes else (),
            startup_probe=Probe() if name in startup else None,
            lifecycle=hook if name in hooks else None,
        )

    def named(names: str) -> tuple[Container, ...]:
        return tuple(one(word) for word in names.split(",") if word)

    return Pod(
        metadata=ObjectMeta(name="p", namespace="default", uid="u1", generation=1),
        spec=PodSpec(
            restart_policy=options.get("restart", "Always"),
            init_containers=named(options.get("init", "")),
            containers=named(options.get("containers", "a")),
            termination_grace_period_seconds=int(options.get("grace", "30")),
        ),
    )


def _hooks(words: Iterable[str]) -> dict[str, float]:
    hooks = next((word.removeprefix("hooks=") for word in words if word.startswith("hooks=")), "")
    return {name: float(seconds) for name, seconds in _pairs(hooks).items()}


def spoken(text: str, world: World | None = None) -> str:
    """The dialogue with the answers as they are: lines said by the world are indented."""
    world, out = world or World(), []
    for line in text.splitlines():
        if not line.strip() or line.startswith(" "):
            continue
        out.append(line)
        if not line.startswith("#"):
            out += [f"    {answer}" for answer in speak(world, line)]
    return "\n".join(out) + "\n"


def _to_the_end(world: World, work: Callable[[], Iterator[str]]) -> Iterator[str]:
    """The work of one kubelet, and another one's where it is killed."""
    done = False
    while not done:
        try:
            yield from work()
            done = True
        except KilledError:
            world.forget()
            yield "(killed)"


def speak(world: World, line: str) -> Iterator[str]:
    """What a line of a dialogue brings about."""
    verb, *words = line.split()
    match verb, words:
        case "pod", _:
            world.pod = make_pod(**dict(word.split("=") for word in words))
            world.hooks = _hooks(words)
        case "pass", _:
            yield from _to_the_end(world, world.passes)
        case "step", [count]:
            with contextlib.suppress(KilledError):
                for _, text in zip(range(int(count)), world.passes(), strict=False):
                    yield text
            world.forget()
            yield "(killed)"
        case "delete", _:
            world.deleted = float(words[0] if words else world.pod.spec.termination_grace_period_seconds or 30)
            yield from _to_the_end(world, world.terminate)
        case "orphaned", []:
            world.orphan, world.deleted = True, 1.0
            yield from _to_the_end(world, world.terminate)
        case "removed", []:
            for action in plan.removal_actions(world.seen()):
                yield world.do(action)
        case _ if (
            (world.cut or world.lenient)
            and words
            and verb in ("exit", "created", "unknown")
            and not world.seen().of(words[0])
        ):
            pass  # it was killed before it could start that one
        case _:
            _happens(world, verb, words)
    if verb in ("pass", "step", "delete"):
        yield f"= {world.shown()}"


def _happens(world: World, verb: str, words: list[str]) -> None:
    """What others do, and time."""
    match verb, words:
        case "exit", [name, code]:
            world.end(world.newest(name).id, int(code))
        case "later", [seconds, "exit", name, code]:
            world.later.append((world.now + timedelta(seconds=float(seconds)), code, name))
        case "later", [seconds, "grace", grace]:
            world.later.append((world.now + timedelta(seconds=float(seconds)), "grace", grace))
        case "slow", [name, seconds]:
            world.slow[name] = float(seconds)
        case "answers", [name, code]:
            world.codes[name] = int(code)
        case "advance", [seconds]:
            world.now += timedelta(seconds=float(seconds))
        case "fail", [name, probe]:
            world.health[world.newest(name).id] = Health(**{probe: Verdict.FAILURE})
        case (("ready" | "started"), [name]):
            world.unready.discard(name)
            world.health[world.newest(name).id] = Health()
        case "unready", [name]:
            world.unready.add(name)
        case (("unknown" | "created"), [name]):
            newest = world.newest(name)
            world.containers[world.containers.index(newest)] = replace(newest, state=ContainerState(verb))
        case "sandbox", ["dies"]:
            world.change_sandbox(world.sandboxes[-1].id, state=SandboxState.NOT_READY)
        case "sandbox", ["loses", "its", "address"]:
            world.change_sandbox(world.sandboxes[-1].id, ips=())
        case "wipe", [name]:
            world.containers = [c for c in world.containers if c.name != name]
        case "image", [name, image]:
            _change_image(world, name, image)
        case "debug", [name, *target]:
            guest = EphemeralContainer(name=name, image="busybox", target_container_name=target[0] if target else "")
            guests = (*world.pod.spec.ephemeral_containers, guest)
            spec = msgspec.structs.replace(world.pod.spec, ephemeral_containers=guests)
            world.pod = msgspec.structs.replace(world.pod, spec=spec)
        case "refuse", [name, reason]:
            world.refusing[name] = reason
        case "allow", [name]:
            world.refusing.pop(name)
        case _:
            raise AssertionError(f"not a line of a dialogue: {verb} {words}")


def _change_image(world: World, name: str, image: str) -> None:
    def changed(containers: tuple[Container, ...]) -> tuple[Container, ...]:
        return tuple(msgspec.structs.replace(c, image=image) if c.name == name else c for c in containers)

    spec = world.pod.spec
    spec = msgspec.structs.replace(
        spec, containers=changed(spec.containers), init_containers=changed(spec.init_containers)
    )
    world.pod = msgspec.structs.replace(world.pod, spec=spec)
