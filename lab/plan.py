"""What a lab consists of: namespaces, links, routes, configuration files, daemons. Pure: from `Lab` to `Topology`.

Routes are chosen so that no packet escapes. The outer namespace answers the Pod and Service ranges with `unreachable`; each
node sends the Service range there (so that a local connect has a route before kube-proxy's DNAT finds it a real one) and
answers the Pod range itself with `unreachable`, behind the overlay's more specific routes. Nobody has a default route.
"""

import json
from typing import Any

from cni import launcher
from lab import containerd, mounts, static
from lab.containerd import plugins
from lab.model import (
    API_PORT,
    BRIDGE_ADDRESS,
    BRIDGE_MAC,
    DEMO_NODE_PORT,
    ETCD_METRICS_PORT,
    NODE_GRACE,
    PODS,
    SERVICES,
    TOLERATION_SECONDS,
    UNDERLAY,
    Daemon,
    Lab,
    Node,
    Topology,
)

ETCD = "http://127.0.0.1:2379"

_NODE_SYSCTLS = {"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0"}


def topology(lab: Lab) -> Topology:
    nodes = tuple(_node(lab, index) for index in range(1, lab.nodes + 1))
    files = _centre_files(lab, nodes[0])
    for node in nodes:
        files |= _node_files(lab, node)
    centres = _centre_daemons(lab, nodes[0])
    if lab.static:
        files |= static.manifests(lab, nodes[0], lab.static, tuple(centres))
        centres = []
    daemons = [*_outer_daemons(lab), *centres]
    for node in nodes:
        daemons += _node_daemons(lab, node, nodes[0])
    centre = str(nodes[0].address)
    return Topology(
        lab=lab,
        nodes=nodes,
        links=_links(lab, nodes),
        views={node.spaces: mounts.view(node.name, node.state) for node in nodes if node.spaces},
        sysctls={lab.outer: {"net/ipv4/ip_forward": "1"}} | {node.namespace: _NODE_SYSCTLS for node in nodes},
        files=files | _prometheus_files(lab, nodes),
        daemons=tuple(daemons),
        forwards=_forwards(lab, centre),
    )


def _node(lab: Lab, index: int) -> Node:
    name = f"node{index}"
    return Node(
        name=name,
        index=index,
        address=UNDERLAY[10 + index],
        namespace=f"{lab.outer}-{name}",
        state=f"{lab.state}/{name}",
        cgroup=f"/wherry/{lab.name}/{name}",
        spaces="" if lab.docker else mounts.spaces(lab.state, name),
    )


def _links(lab: Lab, nodes: tuple[Node, ...]) -> dict[str, tuple[str, ...]]:
    outer = [
        "link set lo up",
        # A MAC of its own: a bridge's is else the least of its ports', and with a node that joins all others would lose it.
        f"link add underlay address {BRIDGE_MAC} type bridge",
        f"address add {BRIDGE_ADDRESS}/{UNDERLAY.prefixlen} dev underlay",
        "link set underlay up",
        f"route add unreachable {PODS}",
        f"route add unreachable {SERVICES}",
    ]
    links: dict[str, tuple[str, ...]] = {}
    for node in nodes:
        outer += [
            f"link add {node.name} type veth peer name eth0 netns {node.namespace}",
            f"link set {node.name} master underlay up",
        ]
        links[node.namespace] = (
            "link set lo up",
            f"address add {node.address}/{UNDERLAY.prefixlen} dev eth0",
            "link set eth0 up",
            f"route add {SERVICES} via {BRIDGE_ADDRESS}",
            f"route add unreachable {PODS} metric 4096",
        )
    return {lab.outer: tuple(outer), **links}


def _forwards(lab: Lab, centre: str) -> tuple[tuple[int, str, int], ...]:
    doors = [(lab.api_port, centre, API_PORT), (lab.demo_port, centre, DEMO_NODE_PORT)]
    if lab.prometheus:
        doors.append((lab.prometheus_port, "127.0.0.1", 9090))
    return tuple(doors)


def _python(lab: Lab, module: str, *arguments: str) -> tuple[str, ...]:
    return (lab.python, "-m", module, *arguments)


def _outer_daemons(lab: Lab) -> list[Daemon]:
    found: list[Daemon] = []
    if lab.own_docker:
        found.append(
            Daemon("dockerd", "", lab.outer, _python(lab, "lab.dockerd", lab.state), f"{lab.state}/log/dockerd.log")
        )
    if lab.prometheus:
        argv = (
            lab.prometheus,
            f"--config.file={lab.state}/prometheus/prometheus.yml",
            f"--storage.tsdb.path={lab.state}/prometheus/data",
            "--web.listen-address=127.0.0.1:9090",
        )
        found.append(Daemon("prometheus", "", lab.outer, argv, f"{lab.state}/log/prometheus.log"))
    return found


def _centre_daemons(lab: Lab, centre: Node) -> list[Daemon]:
    names = ("apiserver", "controllers", "scheduler")
    store = _etcd(lab, centre) if lab.etcd else []
    return store + [
        Daemon(
            name=f"{centre.name}/{name}",
            node=centre.name,
            namespace=centre.namespace,
            argv=_python(lab, name, "--config", f"{centre.state}/{name}.yaml"),
            log=f"{centre.state}/log/{name}.log",
            spaces=centre.spaces,
            after=tuple(one.name for one in store) if name == "apiserver" else (f"{centre.name}/apiserver",),
        )
        for name in names
    ]


def _etcd(lab: Lab, centre: Node) -> list[Daemon]:
    """A member of its own, which only the centre's namespace reaches."""
    peer = "http://127.0.0.1:2380"
    argv = (
        lab.etcd,
        f"--name={centre.name}",
        f"--data-dir={centre.state}/etcd",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={centre.name}={peer}",
        f"--listen-metrics-urls=http://127.0.0.1:{ETCD_METRICS_PORT}",
    )
    log = f"{centre.state}/log/etcd.log"
    return [Daemon(f"{centre.name}/etcd", centre.name, centre.namespace, argv, log, spaces=centre.spaces)]


def _node_daemons(lab: Lab, node: Node, centre: Node) -> list[Daemon]:
    home, pki = node.state, f"{node.state}/pki"
    env = {"XTABLES_LOCKFILE": f"{home}/run/xtables.lock"}
    runtime = [_cni_agent(node, lab.python, env), *([] if lab.docker else [_containerd(node, env)])]
    arguments: dict[str, tuple[str, ...]] = {
        "kubelet": (
            f"--config={home}/kubelet.yaml",
            f"--kubeconfig={pki}/kubelet.kubeconfig",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
            f"--root-dir={home}/kubelet",
            *(_cni_flags(node) if lab.docker else ()),
        ),
        "proxy": (f"--config={home}/proxy.yaml",),
        "overlay": (
            f"--kubeconfig={pki}/overlay.kubeconfig",
            f"--hostname-override={node.name}",
            f"--net-config-path={home}/net-conf.json",
            f"--subnet-file={home}/run/flannel/subnet.env",
            "--ip-masq",
        ),
        "metrics": (
            f"--cgroup-root={node.cgroup}",
            f"--docker={lab.docker}",
            *(() if lab.docker else (f"--containerd={containerd.STATE}",)),
            f"--node-name={node.name}",
        ),
    }
    before = () if lab.static else (f"{centre.name}/apiserver",)
    return runtime + [
        Daemon(
            name=f"{node.name}/{name}",
            node=node.name,
            namespace=node.namespace,
            argv=_python(lab, name, *extra),
            log=f"{home}/log/{name}.log",
            env=env,
            after=(*before, *(one.name for one in runtime if name == "kubelet")),
            spaces=node.spaces,
            first=containerd.importing(lab) if not lab.docker and name == "kubelet" else (),
        )
        for name, extra in arguments.items()
    ]


def _containerd(node: Node, env: dict[str, str]) -> Daemon:
    """It hands `env` on to the CNI plugins that it calls."""
    argv = ("containerd", f"--config={node.state}/containerd.toml", "--log-level=warn")
    log = f"{node.state}/log/containerd.log"
    return Daemon(f"{node.name}/containerd", node.name, node.namespace, argv, log, env, spaces=node.spaces)


def _cni_agent(node: Node, python: str, env: dict[str, str]) -> Daemon:
    """It hands `env` on to the programs that it calls, as containerd does."""
    argv = (python, "-m", "cni.agent", f"--socket={node.state}/run/cni.sock", f"--run-dir={node.state}/run/cni")
    log = f"{node.state}/log/cni.log"
    return Daemon(f"{node.name}/cni", node.name, node.namespace, argv, log, env, spaces=node.spaces)


def _cni_flags(node: Node) -> tuple[str, ...]:
    home = node.state
    return (
        f"--cni-conf-dir={home}/cni/net.d",
        f"--cni-bin-dir={plugins(node)}",
        f"--cni-cache-dir={home}/cni/cache",
    )


def _centre_files(lab: Lab, centre: Node) -> dict[str, str]:
    pki = f"{lab.state}/pki"
    apiserver = {
        "apiVersion": "wherry.io/v1alpha1",
        "kind": "ApiServerConfiguration",
        "bindAddress": "0.0.0.0",
        "advertiseAddress": str(centre.address),
        "securePort": API_PORT,
        "dataDir": f"{centre.state}/apiserver",
        **({"etcdServers": [ETCD]} if lab.etcd else {}),
        "tlsCertFile": f"{pki}/apiserver.crt",
        "tlsPrivateKeyFile": f"{pki}/apiserver.key",
        "clientCaFile": f"{pki}/ca.crt",
        "kubeletClientCertificate": f"{pki}/apiserver-kubelet-client.crt",
        "kubeletClientKey": f"{pki}/apiserver-kubelet-client.key",
        "kubeletCertificateAuthority": f"{pki}/ca.crt",
        "serviceClusterIPRange": str(SERVICES),
        "defaultNotReadyTolerationSeconds": TOLERATION_SECONDS,
        "defaultUnreachableTolerationSeconds": TOLERATION_SECONDS,
    }
    # There is one copy of each: one that was killed goes on at once, and not when the dead one's Lease has run out.
    alone = {"leaderElection": {"leaderElect": False}}
    controllers = {
        "apiVersion": "wherry.io/v1alpha1",
        "kind": "ControllersConfiguration",
        "kubeconfig": f"{pki}/kube-controller-manager.kubeconfig",
        "bindAddress": "0.0.0.0",
        "tlsCertFile": f"{pki}/kube-controller-manager.crt",
        "tlsPrivateKeyFile": f"{pki}/kube-controller-manager.key",
        "rootCaFile": f"{pki}/ca.crt",
        "allocateNodeCIDRs": True,
        "clusterCIDR": [str(PODS)],
        "nodeMonitorGracePeriod": NODE_GRACE,
        **alone,
    }
    scheduler = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": f"{pki}/kube-scheduler.kubeconfig"},
        **alone,
    }
    documents = {"apiserver": apiserver, "controllers": controllers, "scheduler": scheduler}
    return {f"{centre.state}/{name}.yaml": _document(document) for name, document in documents.items()}


def _node_files(lab: Lab, node: Node) -> dict[str, str]:
    home, pki = node.state, f"{node.state}/pki"
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupRoot": node.cgroup,
        "podLogsDir": f"{home}/log/pods",
        "containerRuntimeEndpoint": lab.docker.replace("unix://", "docker://") or containerd.ENDPOINT,
        "authentication": {"x509": {"clientCAFile": f"{lab.state}/pki/ca.crt"}},
        "tlsCertFile": f"{pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{pki}/kubelet.key",
        "nodeStatusUpdateFrequency": "5s",
        "nodeLeaseDurationSeconds": 12,
        "failSwapOn": False,
        # The daemon's images may be its owner's, and there is no registry to have the lab's again from.
        "imageGCHighThresholdPercent": 100,
        **({"staticPodPath": f"{home}/manifests"} if lab.static and node.centre else {}),
    }
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{pki}/proxy.kubeconfig"},
        "hostnameOverride": node.name,
        "bindAddress": str(node.address),
        "clusterCIDR": str(PODS),
        "mode": lab.proxy_mode,
        "metricsBindAddress": "0.0.0.0:10249",
        "healthzBindAddress": "0.0.0.0:10256",
        # Not a namespace's own: the limit of flows and the hash table are the machine's, and so is who dies first.
        "conntrack": {"maxPerCore": 0},
        "oomScoreAdj": 0,
    }
    cni = launcher.conflist(
        subnet_file=f"{home}/run/flannel/subnet.env",
        data_dir=f"{home}/cni/networks",
        agent=True,
    )
    network = {"Network": str(PODS), "Backend": {"Type": lab.overlay}}
    return {
        f"{home}/kubelet.yaml": _document(kubelet),
        f"{home}/proxy.yaml": _document(proxy),
        f"{home}/net-conf.json": _document(network),
        f"{home}/cni/net.d/{launcher.CONFLIST}": cni.decode(),
        **({} if lab.docker else {f"{home}/containerd.toml": containerd.config(lab, node)}),
    }


def _prometheus_files(lab: Lab, nodes: tuple[Node, ...]) -> dict[str, str]:
    """Targets for `file_sd_configs`: one file a job, named as the jobs of deploy/prometheus/prometheus.yml name them."""
    ports = {"kubelet": 10250, "proxy": 10249, "overlay": 10262, "metrics": 8080}
    centre = {"apiserver": API_PORT, "scheduler": 10259, "controllers": 10257}
    targets = {job: [(node, port) for node in nodes] for job, port in ports.items()}
    targets |= {job: [(nodes[0], port)] for job, port in centre.items()}
    return {
        f"{lab.state}/prometheus/targets/{job}.json": _document(
            [{"targets": [f"{node.address}:{port}"], "labels": {"node": node.name}} for node, port in found]
        )
        for job, found in targets.items()
    }


def _document(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"
