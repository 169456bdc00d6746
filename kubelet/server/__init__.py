"""The kubelet's HTTPS API on 10250: what `kubectl logs` and `exec` reach through the API server, and Prometheus directly.

    /healthz[/ping /log /syncloop]    all is well, or what is not
    /pods /runningpods/               what was asked of this node; what runs on it
    /containerLogs/{ns}/{pod}/{c}     kubelet.containerlogs.logs
    /exec /attach /portForward        kubelet.streams, over WebSocket or SPDY/3.1
    /run                              a command's output, in one piece
    /stats/summary /metrics...        figures
    /configz /logs/ /debug/...        looking into the node

`access` says who may what, `api` answers, `whose` finds the container that is meant, `summary` and `containers` have the figures
(the only ones here that know the metrics room). The read-only port has the same pages without the commands, and no
questions. (Upstream: pkg/kubelet/server/server.go.)
"""

from kubelet.server.access import Access, Policy, User
from kubelet.server.api import Pages, PodSource, Server, serve
from kubelet.server.containers import container_pages
from kubelet.server.tls import tls_context
from kubelet.server.whose import locate

__all__ = [
    "Access",
    "Pages",
    "PodSource",
    "Policy",
    "Server",
    "User",
    "container_pages",
    "locate",
    "serve",
    "tls_context",
]
