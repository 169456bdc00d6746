"""A CRI v1 runtime (containerd, CRI-O) behind `kubelet.runtime.Runtime`.

    runtime.proto   the interface, as far as the kubelet uses it; runtime_pb2.py is made from it by tools/protos
    client.py       gRPC over the runtime's socket: deadlines, and a runtime's refusals as our fates
    calls.py        the calls
    spec.py         pure: our values as CRI's messages and back
    streams.py      exec and attach, over the runtime's streaming server
    processes.py    what only the verbose answers tell: processes, cgroups, limits
    health.py sandboxes.py containers.py executions.py images.py    the nouns of the Protocol
    backend.py      CriRuntime, which puts them together

The runtime makes sandboxes, calls CNI, writes logs and stops containers by itself; what the kubelet adds is noticing exits at
once (`kubelet.hints`), where runtimes tell them late or not at all.
"""

from kubelet.cri.backend import CriOptions, CriRuntime

__all__ = ["CriOptions", "CriRuntime"]
