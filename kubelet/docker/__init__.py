"""Docker as a pod runtime: what dockershim was, behind `kubelet.runtime.Runtime`.

    engine.py       the `docker` package's client in bounded named threads, each call with a time limit
    transport.py    its connections
    wire.py         what lasts: ping, events, pull, over HTTP in the event loop
    streams.py      hijacked connections, for exec and attach
    spec.py         pure: our configurations as Engine API bodies, the engine's answers as our values
    pause.py        the image of the process that holds a sandbox's namespaces, built here, from no registry
    containers.py   what is true of any Docker container
    sandboxes.py executions.py images.py events.py    the nouns of the Protocol
    backend.py      DockerRuntime, which puts them together

Docker has no sandboxes, so one is a pause container with no network of Docker's; the kubelet's own CNI call gives it one.
The containers of the pod join its network and IPC namespaces. Nothing depends on docker0 or on dockerd's iptables.
"""

from kubelet.docker.backend import DockerOptions, DockerRuntime

__all__ = ["DockerOptions", "DockerRuntime"]
