"""Keys of KubeletConfiguration that this kubelet does not read: upstream has them, so a file may name them.

A value that says what this kubelet does anyway is accepted; any other is refused with what to do instead. Nothing is
accepted and then ignored. (The list is k8s.io/kubelet/config/v1beta1, KubeletConfiguration, less `kubelet.config`.)
"""

from collections.abc import Mapping

from kube.settings import Foreign

_LATER = "is not in this version of wherry-kubelet; remove it"
_EVICTION = "pods are not evicted by this version (evictionHard sets the node's conditions and allocatable); remove it"
_PINNING = "containers are not pinned to CPUs or memory nodes by this version; leave it at the default"
_SHUTDOWN = "graceful node shutdown is not in this version; set it to 0s, and drain nodes before they go down"
_CGROUPS = "daemons are not moved between cgroups; let their systemd units say which slice they are in, and remove it"

FOREIGN: Mapping[str, Foreign] = {
    "cgroupDriver": Foreign(
        "cgroups are made by the kubelet itself; write cgroupDriver: cgroupfs here, and SystemdCgroup = false in "
        "containerd's config.toml (Docker: native.cgroupdriver=cgroupfs in its exec-opts)",
        ("cgroupfs",),
    ),
    "cgroupsPerQOS": Foreign("there are always groups for QoS classes; write true or remove it", (True,)),
    "configMapAndSecretChangeDetectionStrategy": Foreign("each object in use is watched; write Watch", ("Watch",)),
    "contentType": Foreign(
        "JSON is spoken to the API server; write application/json or remove it", ("application/json",)
    ),
    "cpuManagerPolicy": Foreign(_PINNING, ("none",)),
    "cpuManagerPolicyOptions": Foreign(_PINNING),
    "cpuManagerReconcilePeriod": Foreign(_PINNING, ("10s",)),
    "enableContentionProfiling": Foreign("Go's profiler is not here; write false or remove it"),
    "enableControllerAttachDetach": Foreign("volumes are not attached by this version; remove it", (True, False)),
    "enableDebugFlagsHandler": Foreign("the log level is set by --v at start; write false or remove it", (True, False)),
    "enableProfilingHandler": Foreign("Go's profiler is not here; write false or remove it", (True, False)),
    "enableServer": Foreign("the kubelet's API is always served; write true or remove it", (True,)),
    "evictionMaxPodGracePeriod": Foreign(_EVICTION),
    "evictionMinimumReclaim": Foreign(_EVICTION),
    "evictionSoft": Foreign(_EVICTION),
    "evictionSoftGracePeriod": Foreign(_EVICTION),
    "featureGates": Foreign("upstream's gates are not this kubelet's; remove them"),
    "hairpinMode": Foreign("hairpin is set by the network plugin's configuration; remove it", ("promiscuous-bridge",)),
    "imagePullCredentialsVerificationPolicy": Foreign(_LATER, ("NeverVerify",)),
    "imageServiceEndpoint": Foreign("images come from containerRuntimeEndpoint; remove it"),
    "iptablesDropBit": Foreign("the kubelet writes no iptables rules; remove it", (15,)),
    "iptablesMasqueradeBit": Foreign(
        "the kubelet writes no iptables rules; set iptables.masqueradeBit of the proxy", (14,)
    ),
    "kernelMemcgNotification": Foreign(_EVICTION),
    "kubeAPIBurst": Foreign("requests to the API server are few and not throttled here; remove it", (100,)),
    "kubeAPIQPS": Foreign("requests to the API server are few and not throttled here; remove it", (50,)),
    "kubeReservedCgroup": Foreign(_CGROUPS),
    "kubeletCgroups": Foreign(_CGROUPS),
    "logging.flushFrequency": Foreign("log lines are written at once; remove it", ("5s",)),
    "logging.format": Foreign("the log is text; write text or remove it", ("text",)),
    "logging.options": Foreign("the log is text without further options; remove it"),
    "logging.vmodule": Foreign("the log has one level for all; remove it"),
    "makeIPTablesUtilChains": Foreign("the kubelet writes no iptables rules; remove it", (True, False)),
    "memoryManagerPolicy": Foreign(_PINNING, ("None",)),
    "memorySwap": Foreign("pods do not use swap; remove swapBehavior or write NoSwap", ({"swapBehavior": "NoSwap"},)),
    "memoryThrottlingFactor": Foreign("memory.high is not set; remove it", (0.9,)),
    "podCIDR": Foreign("the pod network comes from the Node's podCIDR and the CNI configuration; remove it"),
    "preloadedImagesVerificationAllowlist": Foreign(_LATER),
    "qosReserved": Foreign("memory is not reserved by QoS class; remove it"),
    "reservedMemory": Foreign(_PINNING),
    "reservedSystemCPUs": Foreign(f"{_PINNING}; systemReserved: {{cpu: ...}} keeps CPU time back"),
    "runOnce": Foreign("the kubelet does not run pods once and end; remove it"),
    "showHiddenMetricsForVersion": Foreign("no metrics are hidden; remove it"),
    "shutdownGracePeriod": Foreign(_SHUTDOWN),
    "shutdownGracePeriodByPodPriority": Foreign(_SHUTDOWN),
    "shutdownGracePeriodCriticalPods": Foreign(_SHUTDOWN),
    "singleProcessOOMKill": Foreign("the kernel's own choice is left as it is; remove it"),
    "systemCgroups": Foreign(_CGROUPS),
    "systemReservedCgroup": Foreign(_CGROUPS),
    "tlsCurvePreferences": Foreign("OpenSSL's curves are used; remove it"),
    "topologyManagerPolicy": Foreign(_PINNING, ("none",)),
    "topologyManagerPolicyOptions": Foreign(_PINNING),
    "topologyManagerScope": Foreign(_PINNING, ("container",)),
    "tracing": Foreign(_LATER),
    "userNamespaces": Foreign("user namespaces are not in this version; remove it"),
    "volumePluginDir": Foreign("FlexVolumes are not in this version; remove it"),
}
