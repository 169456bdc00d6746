"""From a wish to running daemons: what is to be made, its files, namespaces and links, the supervisor.

What an earlier `up` left half-built is taken down first, to the state on disk: the cluster's objects survive in the API's
store, and containerd's images in its own.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

import kube
from cni.launcher import write_plugins
from kube.errors import UsageError
from kube.version import WHERRY
from lab import containerd, dockerd, forwarder, images, mounts, network, pki, readiness, remains, screen, supervisor
from lab.model import API_PORT, DEMO_NODE_PORT, Lab, StaticImage, Topology, Wish
from lab.plan import topology as planned
from linux.process import CommandFailed


async def build(wish: Wish, known: Topology | None) -> Topology:
    """The lab's topology, its daemons started; `known` is what an earlier `up` had made of it."""
    if known or network.namespaces_of(wish.name):
        with screen.step("taking down what is left of an earlier lab (its objects are kept)"):
            remains.clear(wish.name, wish.state, docker=known.lab.docker if known else None)
    made = planned(await _lab(wish, known))
    with screen.step("certificates, configuration, CNI plugins"):
        _write(made)
    views = ", each with its own mounts" if made.views else ""
    with screen.step(f"{len(made.nodes)} nodes: namespaces and links on an underlay bridge{views}"):
        try:
            await network.build(made.links, made.sysctls)
            await mounts.build(made.views)
            if not made.lab.docker:
                containerd.make_groups(made.nodes)
        except (CommandFailed, OSError) as error:
            raise UsageError(
                f"{error}; a lab needs a kernel, and rights, that let it make namespaces and mounts"
            ) from error
    with screen.step("supervisor and daemons"):
        process = _start_supervisor(made)

        def answers() -> bool:
            if process.poll() is not None:
                raise UsageError(f"the supervisor ended: {_last_line(made)}")
            return supervisor.ask(made.lab.state, {"order": "status"}) is not None

        await readiness.until(answers, "the supervisor", made.lab.state, seconds=10)
    return made


async def _lab(wish: Wish, known: Topology | None) -> Lab:
    """What is to be made; ports as they were, where they are free still."""
    runtime = wish.runtime or (known.lab.runtime if known else "docker")
    docker, own = _docker(wish) if runtime == "docker" else ("", False)
    static = wish.static or bool(known and known.lab.static)
    if runtime == "containerd":
        containerd.check(wish.state)
        Path(wish.state).mkdir(parents=True, exist_ok=True)
    elif static:
        raise UsageError(
            "--static-control-plane: on the Docker daemon that all nodes share its pods would have the machine's own "
            "network; add --runtime containerd"
        )
    return Lab(
        name=wish.name,
        nodes=wish.nodes,
        state=wish.state,
        docker=docker,
        own_docker=own,
        api_port=forwarder.free_port(known.lab.api_port if known else API_PORT),
        demo_port=forwarder.free_port(known.lab.demo_port if known else DEMO_NODE_PORT),
        python=sys.executable,
        prometheus=shutil.which("prometheus") or "" if wish.prometheus else "",
        prometheus_port=forwarder.free_port(9090) if wish.prometheus else 0,
        etcd=_etcd(wish.store == "etcd" or bool(known and known.lab.etcd)),
        snapshotter=await containerd.snapshotter(wish.state) if runtime == "containerd" else "",
        handlers=containerd.handlers() if runtime == "containerd" else {},
        static=StaticImage(f"wherry.local/wherry:{WHERRY}", _needed()) if static else None,
        proxy_mode=wish.proxy_mode or (known.lab.proxy_mode if known else "iptables"),
        overlay=wish.overlay or (known.lab.overlay if known else "vxlan"),
    )


def _docker(wish: Wish) -> tuple[str, bool]:
    """The endpoint of the Docker daemon to use, and whether the lab runs it itself."""
    endpoint = dockerd.answering()
    if endpoint and dockerd.cgroup_driver(endpoint) != "cgroupfs":
        driver = dockerd.cgroup_driver(endpoint) or "unknown"
        screen.say(
            f"  Docker at {endpoint} has the cgroup driver {driver}, pods need cgroupfs: the lab runs its own dockerd"
        )
        endpoint = None
    if endpoint:
        return endpoint, False
    dockerd.own_argv(wish.state)  # says at once when there is no dockerd to run
    return dockerd.placed(wish.state), True


def _etcd(wanted: bool) -> str:
    path = shutil.which("etcd")
    if wanted and not path:
        raise UsageError("--store etcd: etcd is not on PATH; apt-get install etcd-server")
    return path or "" if wanted else ""


def _needed() -> tuple[str, ...]:
    """The directories of this machine that hold the interpreter, its libraries, our packages and those they need."""
    roots = ("/lib", "/lib32", "/lib64", "/libx32")
    found = {"/usr", *(root for root in roots if os.path.isdir(root) and not os.path.islink(root))}
    found |= {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    code = str(Path(kube.__file__).resolve().parent.parent)
    # Not the first entry: that is where the user stands, or where a script is.
    found |= {path for path in (*sys.path[1:], code) if os.path.isdir(path)}
    return tuple(sorted(path for path in found if not any(path.startswith(f"{other}/") for other in found)))


def _write(made: Topology) -> None:
    state = Path(made.lab.state)
    state.mkdir(parents=True, exist_ok=True)
    os.chmod(state, 0o700)
    pki.write(made.lab, made.nodes)
    for path, text in made.files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    folders = ["kubelet", "cni/networks", "cni/cache", "cni/lib", "run/flannel", "log/pods"]
    if made.views:
        folders += ["run/lock", "run/systemd/resolve"]
    for node in made.nodes:
        for folder in folders:
            Path(node.state, folder).mkdir(parents=True, exist_ok=True)
    if made.lab.prometheus:
        _write_prometheus(made)
    if not made.lab.docker:
        Path(containerd.archive(made.lab)).write_bytes(_images(made.lab))
    for node in made.nodes:
        write_plugins(
            containerd.plugins(node), made.lab.python, socket=f"{node.state}/run/cni.sock", run=f"{node.state}/run/cni"
        )
    temporary = state / "topology.json.tmp"
    temporary.write_bytes(msgspec.json.encode(made, enc_hook=str))
    temporary.rename(state / "topology.json")


def _images(lab: Lab) -> bytes:
    wanted = [images.pause(), images.demo(screen.deployed("demo/image"))]
    if lab.static:
        wanted.append(images.skeleton(lab.static.name, images.root_links()))
    return images.archive(wanted)


def _write_prometheus(made: Topology) -> None:
    home = Path(made.lab.state, "prometheus")
    (home / "tls").mkdir(parents=True, exist_ok=True)
    shutil.copy(screen.deployed("prometheus/prometheus.yml"), home / "prometheus.yml")
    shutil.copytree(screen.deployed("prometheus/rules"), home / "rules", dirs_exist_ok=True)
    authority = Path(made.lab.state, "pki")
    for source, target in (("ca.crt", "ca.crt"), ("prometheus.crt", "client.crt"), ("prometheus.key", "client.key")):
        shutil.copy(authority / source, home / "tls" / target)


def _start_supervisor(made: Topology) -> "subprocess.Popen[bytes]":
    log = Path(made.lab.state, "log", "supervisor.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as out:
        return subprocess.Popen(
            [made.lab.python, "-m", "lab.supervisor", made.lab.state],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd="/",
        )


def _last_line(made: Topology) -> str:
    lines = Path(made.lab.state, "log", "supervisor.log").read_text(errors="replace").splitlines()
    return lines[-1] if lines else f"it said nothing in {made.lab.state}/log/supervisor.log"
