"""Is the machine what the API says? `wrong(world)` compares each object with what is really there, and says what differs.

    API         nodes Ready and open, replicas there and Ready, nobody's children gone, endpoints = ready pods, addresses
                unique and of their node's range
    runtime     of each pod one sandbox and each container once, with the id that its status names; of nobody else any
    kernel      one veth a pod on cni0, the ledger of addresses and the CNI cache, routes, neighbours and FDB towards the other
                nodes, chains of Services and endpoints, mounts, cgroups, directories, shims

An empty answer is the proof that the cluster has converged and nothing was left behind. It reads while others write, so a
caller who has just changed something asks again until the answer is empty (`consistent`).
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from linux import mounts
from tests.cluster import runtimes
from tests.cluster.conftest import Lab, ready
from tests.cluster.runtimes import Container, Json
from tests.cluster.world import NODES, World, answers, settle

_QOS = {"Guaranteed": "", "Burstable": "burstable/", "BestEffort": "besteffort/"}
_CGROUPS = Path("/sys/fs/cgroup")


def consistent(lab: Lab, seconds: float = 60.0) -> None:
    """Wait until nothing is wrong any more, and every pod reaches every pod and Service."""
    world = World(lab)
    settle(lambda: wrong(world), seconds)
    settle(lambda: unreachable(world), 20.0)


def wrong(world: World) -> list[str]:
    nodes = world.items("/api/v1/nodes")
    pods = world.pods()
    found = [*_nodes(nodes), *_workloads(world, pods), *_addresses(nodes, pods), *_endpoints(world, pods)]
    if found:
        return found  # what is below cannot be right while this is not
    containers = world.containers()
    found += [*_containers(pods, containers), *_shims(world, containers), *_roots(world, containers)]
    chains = _wanted_chains(world)
    for node in nodes:
        name = node["metadata"]["name"]
        here = [p for p in pods if p["spec"].get("nodeName") == name]
        own = [c for c in containers if c.node == name]
        checks = (
            _links(world, name, here),
            _ledger(world, name, here, own),
            _overlay(world, name, nodes),
            _chains(world, name, chains),
            _traces(world, name, here, own),
        )
        found += [f"{name}: {line}" for check in checks for line in check]
    return found


def _differs(what: str, wanted: Iterable[Any], seen: Iterable[Any]) -> Iterator[str]:
    expected, there = Counter(wanted), Counter(seen)
    yield from (f"{what}: {key} is missing" for key in sorted(expected - there, key=str))
    yield from (f"{what}: {key} should not be there" for key in sorted(there - expected, key=str))


def _label(thing: Json) -> str:
    return f"{thing['metadata'].get('namespace', '')}/{thing['metadata']['name']}"


# --- the API ----------------------------------------------------------------------------------------------------------


def _nodes(nodes: list[Json]) -> Iterator[str]:
    yield from _differs("nodes", NODES, (n["metadata"]["name"] for n in nodes))
    for node in nodes:
        if not ready(node):
            yield f"{_label(node)} is not Ready"
        if node["spec"].get("taints"):
            yield f"{_label(node)} has taints {node['spec']['taints']}"


def _workloads(world: World, pods: list[Json]) -> Iterator[str]:
    sets = world.items("/apis/apps/v1/replicasets")
    deployments = world.items("/apis/apps/v1/deployments")
    alive = {thing["metadata"]["uid"] for thing in (*sets, *deployments)}
    for child in (*sets, *pods):
        owners = child["metadata"].get("ownerReferences", ())
        if owners and not any(owner["uid"] in alive for owner in owners):
            yield f"{child.get('kind', 'child')} {_label(child)} has lost its owner {owners[0]['name']}"
    for pod in pods:
        if "deletionTimestamp" in pod["metadata"]:
            yield f"pod {_label(pod)} is still being deleted"
        elif not ready(pod):
            yield f"pod {_label(pod)} on {pod['spec'].get('nodeName')} is not Ready: {_why(pod)}"
    for deployment in deployments:
        meta, spec, status = deployment["metadata"], deployment["spec"], deployment.get("status", {})
        wanted = spec.get("replicas", 1)
        seen = {
            key: status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
        }
        if status.get("observedGeneration") != meta["generation"] or any(n != wanted for n in seen.values()):
            yield f"deployment {_label(deployment)} wants {wanted} of generation {meta['generation']}, says {status}"
        mine = {s["metadata"]["uid"] for s in sets if _owned(s, meta["uid"])}
        there = [p for p in pods if any(_owned(p, uid) for uid in mine)]
        if len(there) != wanted:
            yield f"deployment {_label(deployment)} wants {wanted} pods, there are {len(there)}"


def _owned(thing: Json, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in thing["metadata"].get("ownerReferences", ()))


def _why(pod: Json) -> str:
    status = pod.get("status", {})
    states = {c["name"]: c.get("state") for c in status.get("containerStatuses", ())}
    return f"{status.get('phase')} {states}"


def _addresses(nodes: list[Json], pods: list[Json]) -> Iterator[str]:
    ranges = {n["metadata"]["name"]: ip_network(n["spec"]["podCIDR"]) for n in nodes}
    taken = Counter(p["status"]["podIP"] for p in pods if "podIP" in p.get("status", {}))
    yield from (f"address {address} belongs to {count} pods" for address, count in taken.items() if count > 1)
    for pod in pods:
        address, node = pod.get("status", {}).get("podIP"), pod["spec"].get("nodeName")
        if address and ip_address(address) not in ranges[node]:
            yield f"pod {_label(pod)} has {address}, not of {node}'s {ranges[node]}"


def _endpoints(world: World, pods: list[Json]) -> Iterator[str]:
    slices = defaultdict(list)
    for each in world.items("/apis/discovery.k8s.io/v1/endpointslices"):
        labels = each["metadata"].get("labels", {})
        slices[each["metadata"]["namespace"], labels.get("kubernetes.io/service-name")].append(each)
    old = {(e["metadata"]["namespace"], e["metadata"]["name"]): e for e in world.items("/api/v1/endpoints")}
    services = world.items("/api/v1/services")
    names = {(s["metadata"]["namespace"], s["metadata"]["name"]) for s in services}
    yield from (f"endpointslices of {key} have no Service" for key in slices if key not in names)
    yield from (f"endpoints {key} have no Service" for key in old if key not in names)
    for service in services:
        selector = service["spec"].get("selector")
        if not selector:
            continue
        key = (service["metadata"]["namespace"], service["metadata"]["name"])
        wanted = [p["status"]["podIP"] for p in pods if _selected(p, key[0], selector) and ready(p)]
        listed = [e for each in slices[key] for e in each.get("endpoints") or ()]
        open_ = [a for e in listed if e.get("conditions", {}).get("ready") is not False for a in e["addresses"]]
        yield from _differs(f"endpointslices of {key}", wanted, open_)
        subsets = old.get(key, {}).get("subsets") or ()
        yield from _differs(f"endpoints {key}", wanted, (a["ip"] for s in subsets for a in s.get("addresses") or ()))


def _selected(pod: Json, namespace: str, selector: Json) -> bool:
    labels = pod["metadata"].get("labels", {})
    return pod["metadata"]["namespace"] == namespace and all(labels.get(k) == v for k, v in selector.items())


# --- the runtime ------------------------------------------------------------------------------------------------------


def _containers(pods: list[Json], containers: list[Container]) -> Iterator[str]:
    known = {p["metadata"]["uid"]: p for p in pods}
    for each in containers:
        if each.pod not in known:
            yield f"{each.node}: container {each.name} {each.id[:12]} is of pod {each.pod}, which is no more"
        elif known[each.pod]["spec"]["nodeName"] != each.node:
            yield f"{each.node}: container {each.name} {each.id[:12]} is of a pod on another node"
    for uid, pod in known.items():
        mine = [c for c in containers if c.pod == uid]
        running = [c for c in mine if c.running]
        statuses = {c["name"]: c for c in pod["status"].get("containerStatuses", ())}
        yield from _differs(f"pod {_label(pod)} runs", ["POD", *statuses], (c.name for c in running))
        named = (c["containerID"].partition("://")[2] for c in statuses.values())
        yield from _differs(f"status of {_label(pod)}", (c.id for c in running if not c.sandbox), named)
        for name, count in Counter(c.name for c in mine if not c.running).items():
            if count > 1:
                yield f"pod {_label(pod)} has {count} dead containers {name}; one is kept"


def _shims(world: World, containers: list[Container]) -> Iterator[str]:
    """Docker has one a running container, containerd one a pod; none besides."""
    seen = runtimes.shims(world.lab)
    if seen is not None:
        each = [c.id for c in containers if c.running and (c.sandbox or world.lab.docker)]
        yield from _differs("shim", each, seen)


def _roots(world: World, containers: list[Container]) -> Iterator[str]:
    """The root filesystems of running containers, and of nobody else."""
    mounted, running = runtimes.roots(world.lab), len([c for c in containers if c.running])
    if mounted is not None and mounted != running:
        yield f"{mounted} root filesystems are mounted for {running} running containers"


# --- a node -----------------------------------------------------------------------------------------------------------


def _links(world: World, node: str, pods: list[Json]) -> Iterator[str]:
    links = world.links(node)
    names = {link["ifname"] for link in links}
    yield from (f"link {name} is missing" for name in ("eth0", "flannel.1") if name not in names)
    veths = [link for link in links if link["ifname"].startswith("veth")]
    yield from (f"link {v['ifname']} is on no bridge" for v in veths if v.get("master") != "cni0")
    if len(veths) != len(pods):
        yield f"{len(veths)} veths for {len(pods)} pods"
    allowed = {"lo", "eth0", "flannel.1", "cni0"} | {v["ifname"] for v in veths}
    yield from (f"link {name} should not be there" for name in sorted(names - allowed))


def _ledger(world: World, node: str, pods: list[Json], containers: list[Container]) -> Iterator[str]:
    """host-local's files: address -> sandbox; and the kubelet's cache of what it attached."""
    sandboxes = {c.pod: c.id for c in containers if c.sandbox and c.running}
    wanted = {(p["status"]["podIP"], sandboxes.get(p["metadata"]["uid"])) for p in pods}
    folder = Path(world.state(node), "cni/networks/wherry")
    held = set()
    for file in folder.iterdir() if folder.is_dir() else ():
        if re.fullmatch(r"[\d.]+", file.name):
            held.add((file.name, _text(file).split("\r\n")[0]))
    yield from _differs("IPAM", wanted, held)
    # Docker's networks are the kubelet's to make, containerd's its own; it gives pods a loopback by a plugin, too.
    cache = Path(world.state(node), "cni/cache/results" if world.lab.docker else "cni/lib/results")
    files = [file.name for file in cache.iterdir() if not file.name.endswith("-lo")] if cache.is_dir() else []
    yield from _differs("CNI cache", (f"wherry-{i}-eth0" for i in sandboxes.values()), files)


def _overlay(world: World, node: str, nodes: list[Json]) -> Iterator[str]:
    marks = "flannel.alpha.coreos.com/"
    peers = {}
    for each in nodes:
        if each["metadata"]["name"] != node:
            notes = each["metadata"]["annotations"]
            mac = json.loads(notes[f"{marks}backend-data"])["VtepMAC"]
            peers[each["spec"]["podCIDR"]] = (mac, notes[f"{marks}public-ip"])
    gateways = {cidr: str(ip_network(cidr).network_address) for cidr in peers}
    routes = json.loads(world.inside(node, "ip", "-j", "route", "show", "dev", "flannel.1", check=False) or "[]")
    yield from _differs("route", gateways.items(), ((r["dst"], r.get("gateway")) for r in routes))
    near = json.loads(world.inside(node, "ip", "-j", "neigh", "show", "dev", "flannel.1", check=False) or "[]")
    permanent = ((n["dst"], n.get("lladdr")) for n in near if "PERMANENT" in n["state"])
    yield from _differs("neighbour", ((gateways[cidr], mac) for cidr, (mac, _) in peers.items()), permanent)
    table = json.loads(world.inside(node, "bridge", "-j", "fdb", "show", "dev", "flannel.1", check=False) or "[]")
    yield from _differs("FDB entry", peers.values(), ((e["mac"], e.get("dst")) for e in table if "dst" in e))


Wanted = dict[str, set[str]]


def _wanted_chains(world: World) -> Wanted:
    """Service port `namespace/name:port` -> the `address:port` that its packets may go to."""
    found: Wanted = {}
    for service in world.items("/api/v1/services"):
        if service["spec"].get("clusterIP") not in (None, "", "None"):
            for port in service["spec"].get("ports", ()):
                found[f"{_label(service)}:{port.get('name', '')}".removesuffix(":")] = set()
    for each in world.items("/apis/discovery.k8s.io/v1/endpointslices"):
        name = each["metadata"].get("labels", {}).get("kubernetes.io/service-name", "")
        for port in each.get("ports") or ():
            key = f"{each['metadata']['namespace']}/{name}:{port.get('name', '')}".removesuffix(":")
            for endpoint in each.get("endpoints") or ():
                if key in found and endpoint.get("conditions", {}).get("ready") is not False:
                    found[key] |= {f"{address}:{port['port']}" for address in endpoint["addresses"]}
    return found


def _chains(world: World, node: str, wanted: Wanted) -> Iterator[str]:
    """Where the rules of `nat` can send a packet, and that each chain of ours is reached from another."""
    text = world.inside(node, "iptables-save", "-t", "nat", timeout=30)
    made = set(re.findall(r"^:(KUBE-(?:SEP|SVC|EXT)-\S+)", text, re.MULTILINE))
    reached = set(re.findall(r"-[jg] (KUBE-(?:SEP|SVC|EXT)-\S+)", text))
    yield from (f"chain {chain} is reached by no rule" for chain in sorted(made - reached))
    seen: Wanted = {key: set() for key in wanted}
    for line in text.splitlines():
        if line.startswith("-A KUBE-SEP-") and "--to-destination" in line:
            comment = re.search(r'--comment "?([^" ]+)', line)
            target = re.search(r"--to-destination (\S+)", line)
            if comment and target:
                seen.setdefault(comment[1], set()).add(target[1])
    for key in sorted(wanted.keys() | seen.keys()):
        yield from _differs(f"rules of {key}", wanted.get(key, ()), seen.get(key, ()))


def _traces(world: World, node: str, pods: list[Json], containers: list[Container]) -> Iterator[str]:
    """Directories, mounts and cgroups: of these pods all, of others none."""
    home = world.state(node)
    uids = {p["metadata"]["uid"] for p in pods}
    yield from _differs("pod directory", uids, _names(f"{home}/kubelet/pods"))
    logs = (f"{p['metadata']['namespace']}_{p['metadata']['name']}_{p['metadata']['uid']}" for p in pods)
    yield from _differs("log directory", logs, _names(f"{home}/log/pods"))
    for mount in mounts.below(f"{home}/kubelet", runtimes.node_mounts(world.topology_node(node))):
        if not any(uid in mount.point for uid in uids):
            yield f"mount {mount.point} belongs to no pod"
    running = defaultdict(set)
    for each in containers:
        if each.running:
            running[each.pod].add(each.id)
    wanted = {}
    for pod in pods:
        uid = pod["metadata"]["uid"]
        wanted[f"kubepods/{_QOS[pod['status']['qosClass']]}pod{uid}"] = running[uid]
    for root in _hierarchies(f"wherry/{world.lab.name}/{node}"):
        groups = {str(path.relative_to(root)): set(_names(str(path))) for path in _pod_groups(root)}
        yield from _differs(f"cgroup of {root}", list(wanted), list(groups))
        for name in wanted.keys() & groups.keys():
            yield from _differs(f"cgroup {root}/{name}", wanted[name], groups[name])


def _hierarchies(path: str) -> list[Path]:
    """The same folder in every hierarchy that holds it; a cgroup v2 machine has one."""
    tops = [_CGROUPS, *(p for p in _CGROUPS.iterdir() if p.is_dir() and not p.is_symlink())]
    return [top / path for top in tops if (top / path / "kubepods").is_dir()]


def _pod_groups(root: Path) -> Iterator[Path]:
    for folder in ("kubepods", "kubepods/burstable", "kubepods/besteffort"):
        if (root / folder).is_dir():
            yield from (p for p in (root / folder).iterdir() if p.is_dir() and p.name.startswith("pod"))


def _names(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode(errors="replace")
    except OSError:
        return ""


# --- packets ----------------------------------------------------------------------------------------------------------


def unreachable(world: World) -> list[str]:
    """From every pod to every pod that serves HTTP on 8080, and to every Service of such pods by ClusterIP and NodePort."""
    pods = [p for p in world.pods() if p["status"].get("podIP")]
    served = [p for p in pods if _serves(p)]
    urls = [f"http://{p['status']['podIP']}:8080/" for p in served]
    for service in world.items("/api/v1/services"):
        selector = service["spec"].get("selector")
        if selector and any(_selected(p, service["metadata"]["namespace"], selector) and ready(p) for p in served):
            urls += [f"http://{service['spec']['clusterIP']}:{port['port']}/" for port in service["spec"]["ports"]]
    sandboxes = {c.pod: c for c in world.containers() if c.sandbox and c.running}
    found = []
    for pod in pods:
        sandbox = sandboxes.get(pod["metadata"]["uid"])
        if sandbox is None:
            found.append(f"pod {_label(pod)} has no sandbox")
            continue
        said = answers(sandbox.netns, urls)
        found += [f"{_label(pod)} on {sandbox.node} does not reach {url}" for url, good in said.items() if not good]
    return found


def _serves(pod: Json) -> bool:
    return any(p.get("containerPort") == 8080 for c in pod["spec"]["containers"] for p in c.get("ports", ()))
