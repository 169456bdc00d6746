"""Keys of upstream's KubeProxyConfiguration, and flags of kube-proxy, that this proxy does not read, with what to do instead.

Zeros, empty values and upstream's own defaults are accepted: they are what files say that were written out whole. Anything
else is refused in these words, never ignored. Keys with a dot belong to a section; flags are found by their letters.
"""

from collections.abc import Mapping

from kube.settings import Foreign

_IPVS = Foreign("there is no ipvs mode; remove it, and set mode: nftables for many Services", ("30s", "30s0ms", "rr"))
_WINDOWS = Foreign("this is not Windows; remove it")
_LOG = Foreign("the log is text, written at once and at one level for all; remove it", ("text", "5s", 5000000000))
_PROFILE = Foreign("Go's profiler is not here; write false or remove it")
_WIRE = Foreign(
    "JSON is spoken to the API server; write application/json or remove it",
    ("application/json", "application/vnd.kubernetes.protobuf"),
)
_HIDDEN = Foreign("no metrics are hidden; remove it")
_GATES = Foreign("upstream's gates are not this proxy's; remove them")
_REFRESH = Foreign("every change comes by a watch, there is nothing to refresh; remove it", ("15m", "15m0s"))

FOREIGN: Mapping[str, Foreign] = {
    "clientConnection.acceptContentTypes": _WIRE,
    "clientConnection.contentType": _WIRE,
    "configSyncPeriod": _REFRESH,
    "enableProfiling": _PROFILE,
    "featureGates": _GATES,
    "logging.flushFrequency": _LOG,
    "logging.format": _LOG,
    "logging.options": Foreign(
        "the log is text without further options; remove it",
        ({"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}},),
    ),
    "logging.vmodule": _LOG,
    "portRange": Foreign("upstream ignores it too, there is no userspace mode; remove it"),
    "showHiddenMetricsForVersion": _HIDDEN,
    "windowsRunAsService": _WINDOWS,
    "winkernel": _WINDOWS,
    **{
        f"ipvs.{key}": _IPVS
        for key in (
            "excludeCIDRs", "minSyncPeriod", "scheduler", "strictARP", "syncPeriod", "tcpFinTimeout", "tcpTimeout",
            "udpTimeout",
        )
    },
    # flags whose key is called otherwise
    "kubeAPIContentType": _WIRE,
    "logFlushFrequency": _LOG,
    "loggingFormat": _LOG,
    "profiling": _PROFILE,
    "proxyPortRange": Foreign("upstream ignores it too, there is no userspace mode; remove it"),
    "vmodule": _LOG,
    **{
        f"ipvs{name}": _IPVS
        for name in (
            "ExcludeCIDRs", "MinSyncPeriod", "Scheduler", "StrictARP", "SyncPeriod", "TCPTimeout", "TCPFinTimeout",
            "UDPTimeout",
        )
    },
}  # fmt: skip
