"""Rules of every kind: the small valid object of each is broken in one place, and that place is named in upstream's words."""

# ruff: noqa: E501 (a row a line: the tables are read across)

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiserver import codec, defaults, schema, strategy, validation
from apiserver.registry import Registry
from apiserver.schema import GVK
from apiserver.validation import rules
from tests.unit.apiserver import manifests
from tests.unit.apiserver.arbitrary import values

Obj = dict[str, Any]
REGISTRY = Registry()
KINDS = {gvk.kind: gvk for gvk in sorted(manifests.kinds())}  # autoscaling/v2 and events.k8s.io come last and win


def made(kind: str, **spec: Any) -> Obj:
    """A new object of that kind, as validation sees it."""
    gvk = KINDS[kind]
    obj = copy.deepcopy(manifests.manifest(gvk))
    if spec:
        obj["spec"] = obj.get("spec", {}) | spec
    info = schema.resource_of(gvk)
    assert info is not None
    resource = REGISTRY.find(gvk.group, gvk.version, info.plural)
    assert resource is not None
    if info.namespaced:
        obj["metadata"].setdefault("namespace", "default")
    obj["metadata"] |= {"uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    if resource.inward is not None:
        obj = resource.inward(obj)
    defaults.apply(obj, resource.gvk)
    strategy.prepare_create(resource, obj)
    return obj


def stored(kind: str) -> GVK:
    gvk = KINDS[kind]
    return GVK("", "v1", "Event") if kind == "Event" else gvk


def found(kind: str, obj: Obj) -> dict[str, str]:
    causes = validation.validate_create(stored(kind), obj, KINDS[kind])
    return {one.field: one.message for one in reversed(causes)}  # the first of a field


def put(path: str, value: Any) -> Callable[[Obj], None]:
    """Sets (or with ... removes) what is at `a.b.0.c`."""

    def change(obj: Obj) -> None:
        *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
        at: Any = obj
        for part in way:
            at = at[part] if isinstance(part, int) else at.setdefault(part, {})
        if value is ...:
            at.pop(last)
        else:
            at[last] = value

    return change


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_small_object_of_each_kind_is_valid(kind: str) -> None:
    assert found(kind, made(kind)) == {}


@pytest.mark.parametrize(
    ("kind", "path", "value", "field", "message"),
    [
        # apps
        ("StatefulSet", "spec.podManagementPolicy", "Later", "spec.podManagementPolicy", 'Unsupported value: "Later": supported values: "OrderedReady", "Parallel"'),
        ("StatefulSet", "metadata.name", "a.b", "metadata.name", 'Invalid value: "a.b": a lowercase RFC 1123 label'),
        ("StatefulSet", "spec.updateStrategy", {"type": "OnDelete", "rollingUpdate": {"partition": 1}}, "spec.updateStrategy.rollingUpdate", "Invalid value: "),
        ("StatefulSet", "spec.updateStrategy.rollingUpdate.partition", -1, "spec.updateStrategy.rollingUpdate.partition", "Invalid value: -1: must be greater than or equal to 0"),
        ("StatefulSet", "spec.persistentVolumeClaimRetentionPolicy.whenDeleted", "Keep", "spec.persistentVolumeClaimRetentionPolicy.whenDeleted", 'Unsupported value: "Keep": supported values: "Delete", "Retain"'),
        ("StatefulSet", "spec.selector", {}, "spec.selector", "Invalid value: {}: empty selector is invalid for statefulset"),
        ("DaemonSet", "spec.updateStrategy.rollingUpdate", {"maxUnavailable": 0, "maxSurge": 0}, "spec.updateStrategy.rollingUpdate.maxUnavailable", "Required value: cannot be 0 when maxSurge is 0"),
        ("DaemonSet", "spec.updateStrategy.rollingUpdate", {"maxUnavailable": 1, "maxSurge": 1}, "spec.updateStrategy.rollingUpdate.maxSurge", "Invalid value: 1: may not be set when maxUnavailable is non-zero"),
        ("DaemonSet", "spec.template.spec.restartPolicy", "Never", "spec.template.spec.restartPolicy", 'Unsupported value: "Never": supported values: "Always"'),
        ("DaemonSet", "spec.template.spec.activeDeadlineSeconds", 5, "spec.template.spec.activeDeadlineSeconds", "Invalid value: 5: must not be specified"),
        ("StatefulSet", "spec.template.spec.activeDeadlineSeconds", 5, "spec.template.spec.activeDeadlineSeconds", "Forbidden: activeDeadlineSeconds in StatefulSet is not Supported"),
        ("Pod", "spec", {"hostUsers": False, "hostPID": True, "containers": []}, "spec.hostPID", "Forbidden: when `pod.Spec.HostUsers` is false"),
        ("ControllerRevision", "data", ..., "data", "Required value: data is mandatory"),
        ("ReplicationController", "spec.template.metadata.labels", {"app": "b"}, "spec.template.metadata.labels", 'Invalid value: {"app":"b"}: `selector` does not match template `labels`'),
        ("Deployment", "spec.template.spec.containers.0.image", "", "spec.template.spec.containers[0].image", "Required value"),
        # batch
        ("Job", "spec.template.spec.restartPolicy", "Always", "spec.template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"'),
        ("Job", "spec.completionMode", "Sorted", "spec.completionMode", 'Unsupported value: "Sorted": supported values: "Indexed", "NonIndexed"'),
        ("Job", "spec.backoffLimit", -1, "spec.backoffLimit", "Invalid value: -1: must be greater than or equal to 0"),
        ("Job", "spec.backoffLimitPerIndex", 1, "spec.backoffLimitPerIndex", "Invalid value: 1: requires indexed completion mode"),
        ("Job", "spec.podFailurePolicy", {"rules": [{"action": "Stop", "onPodConditions": [{"type": "X", "status": "True"}]}]}, "spec.podFailurePolicy.rules[0].action", 'Unsupported value: "Stop": supported values: "Count", "FailIndex", "FailJob", "Ignore"'),
        ("Job", "spec.podFailurePolicy", {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}}]}, "spec.podFailurePolicy.rules[0].onExitCodes.values[0]", "Invalid value: 0: must not be 0 for the In operator"),
        ("Job", "spec.selector.matchLabels", {"x": "y"}, "spec.selector", 'Invalid value: {"matchLabels":{"x":"y"}}: `selector` not auto-generated'),
        ("CronJob", "spec.schedule", "* * *", "spec.schedule", 'Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]'),
        ("CronJob", "spec.schedule", "", "spec.schedule", "Required value"),
        ("CronJob", "spec.schedule", "TZ=UTC 0 0 * * *", "spec.schedule", 'Invalid value: "TZ=UTC 0 0 * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead'),
        ("CronJob", "spec.timeZone", "Mars/Base", "spec.timeZone", 'Invalid value: "Mars/Base": unknown time zone Mars/Base'),
        ("CronJob", "spec.timeZone", "Local", "spec.timeZone", 'Invalid value: "Local": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones'),
        ("CronJob", "spec.concurrencyPolicy", "Wait", "spec.concurrencyPolicy", 'Unsupported value: "Wait": supported values: "Allow", "Forbid", "Replace"'),
        ("CronJob", "metadata.name", "x" * 53, "metadata.name", f'Invalid value: "{"x" * 53}": must be no more than 52 characters'),
        # autoscaling, policy
        ("HorizontalPodAutoscaler", "spec.minReplicas", 5, "spec.maxReplicas", "Invalid value: 3: must be greater than or equal to `minReplicas`"),
        ("HorizontalPodAutoscaler", "spec.maxReplicas", 0, "spec.maxReplicas", "Invalid value: 0: must be greater than 0"),
        ("HorizontalPodAutoscaler", "spec.scaleTargetRef", {"kind": "Deployment"}, "spec.scaleTargetRef.name", "Required value"),
        ("HorizontalPodAutoscaler", "spec.metrics", [{"type": "Pods"}], "spec.metrics[0]", "Required value: must specify a metric source type"),
        ("HorizontalPodAutoscaler", "spec.behavior", {"scaleDown": {"stabilizationWindowSeconds": 9999, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1}]}}, "spec.behavior.scaleDown.stabilizationWindowSeconds", "Invalid value: 9999: must be less than or equal to 3600"),
        ("PodDisruptionBudget", "spec.maxUnavailable", 1, "spec", "Invalid value: {"),
        ("PodDisruptionBudget", "spec.minAvailable", "200%", "spec.minAvailable", 'Invalid value: "200%": must not be greater than 100%'),
        ("PodDisruptionBudget", "spec.unhealthyPodEvictionPolicy", "Never", "spec.unhealthyPodEvictionPolicy", 'Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"'),
        # networking, discovery
        ("Ingress", "spec", {}, "spec", "Invalid value: []: either `defaultBackend` or `rules` must be specified"),
        ("Ingress", "spec.defaultBackend", {}, "spec.defaultBackend", "Required value: resource or service backend is required"),
        ("Ingress", "spec.defaultBackend.service.port", {"name": "a", "number": 1}, "spec.defaultBackend.service", 'Invalid value: "": cannot set both port name & port number'),
        ("Ingress", "spec.rules", [{"host": "1.2.3.4"}], "spec.rules[0].host", 'Invalid value: "1.2.3.4": must be a DNS name, not an IP address'),
        ("Ingress", "spec.rules", [{"host": "*.foo..com"}], "spec.rules[0].host", 'Invalid value: "*.foo..com": a wildcard DNS-1123 subdomain must start with \'*.\''),
        ("Ingress", "spec.rules", [{"http": {"paths": [{"path": "x", "pathType": "Prefix", "backend": {"resource": {"kind": "K", "name": "n", "apiGroup": "g"}}}]}}], "spec.rules[0].http.paths[0].path", 'Invalid value: "x": must be an absolute path'),
        ("Ingress", "spec.rules", [{"http": {"paths": [{"path": "/", "backend": {"service": {"name": "s", "port": {"number": 1}}}}]}}], "spec.rules[0].http.paths[0].pathType", "Required value: pathType must be specified"),
        ("IngressClass", "spec.controller", "nginx", "spec.controller", 'Invalid value: "nginx": must be a domain-prefixed path (such as "acme.io/foo")'),
        ("IngressClass", "spec.parameters", {"kind": "K", "name": "n", "scope": "Namespace"}, "spec.parameters.namespace", "Required value: `parameters.scope` is set to 'Namespace'"),
        ("NetworkPolicy", "spec.ingress", [{"from": [{}]}], "spec.ingress[0].from[0]", "Required value: must specify a peer"),
        ("NetworkPolicy", "spec.egress", [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}], "spec.egress[0].to[0].ipBlock.except[0]", 'Invalid value: "11.0.0.0/8": must be a strict subset of `cidr`: "10.0.0.0/8"'),
        ("NetworkPolicy", "spec.ingress", [{"ports": [{"port": 80, "endPort": 79, "protocol": "TCP"}]}], "spec.ingress[0].ports[0].endPort", "Invalid value: 79: must be greater than or equal to `port`"),
        ("NetworkPolicy", "spec.policyTypes", ["Sideways"], "spec.policyTypes[0]", 'Unsupported value: "Sideways": supported values: "Egress", "Ingress"'),
        ("ServiceCIDR", "spec.cidrs", ["10.0.0.1/24"], "spec.cidrs[0]", 'Invalid value: "10.0.0.1/24": must be in canonical form ("10.0.0.0/24")'),
        ("IPAddress", "metadata.name", "010.1.1.1", "metadata.name", 'Invalid value: "010.1.1.1": must be a valid IP address'),
        ("IPAddress", "spec.parentRef", {"resource": "services"}, "spec.parentRef.name", "Required value"),
        ("EndpointSlice", "addressType", "IPX", "addressType", 'Unsupported value: "IPX": supported values: "FQDN", "IPv4", "IPv6"'),
        ("EndpointSlice", "endpoints", [{"addresses": ["10.0.0.1"]}] * 1001, "endpoints", "Too many: 1001: must have at most 1000 items"),
        ("EndpointSlice", "endpoints.0.addresses", ["::1"], "endpoints[0].addresses[0]", 'Invalid value: "::1": must be an IPv4 address'),
        ("Endpoints", "subsets.0.addresses.0.ip", "127.0.0.1", "subsets[0].addresses[0].ip", 'Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)'),
        ("Service", "spec.sessionAffinity", "Cookie", "spec.sessionAffinity", 'Unsupported value: "Cookie": supported values: "ClientIP", "None"'),
        ("Service", "spec", {"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": [" 192.0.2.0 "]}, "spec.loadBalancerSourceRanges[0]", 'Invalid value: "192.0.2.0": must be a valid CIDR value'),
        ("Service", "spec", {"type": "LoadBalancer", "ports": [{"port": 80}], "loadBalancerSourceRanges": ["  "]}, "spec.loadBalancerSourceRanges[0]", 'Invalid value: "": must be a valid CIDR value'),
        ("Service", "spec.loadBalancerClass", "example.com/x", "spec.loadBalancerClass", "Forbidden: may only be used when `type` is 'LoadBalancer'"),
        # storage
        ("PersistentVolume", "spec.accessModes", ["Some"], "spec.accessModes", 'Unsupported value: "Some": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"'),
        ("PersistentVolume", "spec.capacity", {"storage": "0"}, "spec.capacity[storage]", 'Invalid value: "0": must be greater than zero'),
        ("PersistentVolume", "spec.hostPath", ..., "spec", "Required value: must specify a volume type"),
        ("PersistentVolume", "spec.nfs", {"server": "s", "path": "/"}, "spec.nfs", "Forbidden: may not specify more than 1 volume type"),
        ("PersistentVolume", "spec.persistentVolumeReclaimPolicy", "Burn", "spec.persistentVolumeReclaimPolicy", 'Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain"'),
        ("PersistentVolumeClaim", "spec.resources", {}, "spec.resources[storage]", "Required value"),
        ("PersistentVolumeClaim", "spec.accessModes", ["ReadWriteOncePod", "ReadOnlyMany"], "spec.accessModes", "Forbidden: may not use ReadWriteOncePod with other access modes"),
        ("PersistentVolumeClaim", "spec.volumeMode", "Tape", "spec.volumeMode", 'Unsupported value: "Tape": supported values: "Block", "Filesystem"'),
        ("StorageClass", "volumeBindingMode", "Later", "volumeBindingMode", 'Unsupported value: "Later": supported values: "Immediate", "WaitForFirstConsumer"'),
        ("StorageClass", "provisioner", ..., "provisioner", "Required value"),
        ("CSIDriver", "spec.volumeLifecycleModes", ["Short"], "spec.volumeLifecycleModes[0]", 'Unsupported value: "Short": supported values: "Ephemeral", "Persistent"'),
        ("CSINode", "spec.drivers", [{"name": "d"}], "spec.drivers[0].nodeID", "Required value"),
        ("VolumeAttachment", "spec.source", {}, "spec.source", "Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        ("CSIStorageCapacity", "storageClassName", ..., "storageClassName", "Required value"),
        # limits
        ("LimitRange", "spec.limits.0", {"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}}, "spec.limits[0].min[cpu]", 'Invalid value: "2": min value 2 is greater than max value 1'),
        ("LimitRange", "spec.limits.0", {"type": "Pod", "default": {"cpu": "2"}}, "spec.limits[0].default", "Forbidden: may not be specified when `type` is 'Pod'"),
        ("LimitRange", "spec.limits.0", {"type": "Node"}, "spec.limits[0].type", 'Invalid value: "Node": must be a standard limit type or fully qualified'),
        ("ResourceQuota", "spec.hard", {"pods": "1500m"}, "spec.hard[pods]", 'Invalid value: "1500m": must be an integer'),
        ("ResourceQuota", "spec.hard", {"cows": "1"}, "spec.hard[cows]", 'Invalid value: "cows": must be a standard resource for quota'),
        ("ResourceQuota", "spec.scopes", ["BestEffort", "NotBestEffort"], "spec.scopes", 'Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes'),
        # access
        ("Role", "rules.0.verbs", [], "rules[0].verbs", "Required value: verbs must contain at least one value"),
        ("Role", "rules", [{"verbs": ["get"], "nonResourceURLs": ["/x"]}], "rules[0].nonResourceURLs", 'Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs'),
        ("ClusterRole", "rules.0.apiGroups", [], "rules[0].apiGroups", "Required value: resource rules must supply at least one api group"),
        ("ClusterRole", "metadata.name", "a/b", "metadata.name", "Invalid value: \"a/b\": may not contain '/'"),
        ("RoleBinding", "roleRef.kind", "Deployment", "roleRef.kind", 'Unsupported value: "Deployment": supported values: "ClusterRole", "Role"'),
        ("ClusterRoleBinding", "roleRef.kind", "Role", "roleRef.kind", 'Unsupported value: "Role": supported values: "ClusterRole"'),
        ("ClusterRoleBinding", "subjects.0", {"kind": "ServiceAccount", "name": "s"}, "subjects[0].namespace", "Required value"),
        ("RoleBinding", "subjects.0.kind", "Robot", "subjects[0].kind", 'Unsupported value: "Robot": supported values: "Group", "ServiceAccount", "User"'),
        ("CertificateSigningRequest", "spec.request", "bm90aGluZw==", "spec.request", 'Invalid value: "bm90aGluZw==": PEM block type must be CERTIFICATE REQUEST'),
        ("CertificateSigningRequest", "spec.usages", ["being nice"], "spec.usages[0]", 'Unsupported value: "being nice"'),
        ("CertificateSigningRequest", "spec.signerName", "signer", "spec.signerName", 'Invalid value: "signer": must be a fully qualified domain and path of the form "example.com/signer-name"'),
        ("CertificateSigningRequest", "spec.expirationSeconds", 10, "spec.expirationSeconds", "Invalid value: 10: may not specify a duration less than 600 seconds (10 minutes)"),
        # admission
        ("ValidatingWebhookConfiguration", "webhooks.0.name", "short", "webhooks[0].name", 'Invalid value: "short": should be a domain with at least three segments separated by dots'),
        ("ValidatingWebhookConfiguration", "webhooks.0.sideEffects", "Some", "webhooks[0].sideEffects", 'Unsupported value: "Some": supported values: "None", "NoneOnDryRun"'),
        ("ValidatingWebhookConfiguration", "webhooks.0.clientConfig", {}, "webhooks[0].clientConfig", "Required value: exactly one of url or service is required"),
        ("MutatingWebhookConfiguration", "webhooks.0.clientConfig.url", "http://x/", "webhooks[0].clientConfig.url", "Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]"),
        ("MutatingWebhookConfiguration", "webhooks.0.timeoutSeconds", 31, "webhooks[0].timeoutSeconds", "Invalid value: 31: must be between 1 and 30, inclusive"),
        ("MutatingWebhookConfiguration", "webhooks.0.rules.0.operations", ["TOUCH"], "webhooks[0].rules[0].operations[0]", 'Unsupported value: "TOUCH": supported values: "*", "CONNECT", "CREATE", "DELETE", "UPDATE"'),
        ("MutatingWebhookConfiguration", "webhooks.0.admissionReviewVersions", ["v7"], "webhooks[0].admissionReviewVersions", 'Invalid value: ["v7"]: must include at least one of v1, v1beta1'),
        ("ValidatingAdmissionPolicy", "spec.matchConstraints", ..., "spec.matchConstraints", "Required value"),
        ("ValidatingAdmissionPolicy", "spec.validations.0.expression", " ", "spec.validations[0].expression", "Required value: expression is not specified"),
        ("ValidatingAdmissionPolicyBinding", "spec.validationActions", ["Shout"], "spec.validationActions[0]", 'Unsupported value: "Shout": supported values: "Audit", "Deny", "Warn"'),
        ("MutatingAdmissionPolicy", "spec.mutations", [], "spec.mutations", "Required value: mutations must contain at least one item"),
        # definitions
        ("CustomResourceDefinition", "metadata.name", "ships.example.com", "metadata.name", 'Invalid value: "ships.example.com": must be spec.names.plural+"."+spec.group'),
        ("CustomResourceDefinition", "spec.versions.0.storage", False, "spec.versions", 'Invalid value: ["v1"]: must have exactly one version marked as storage version'),
        ("CustomResourceDefinition", "spec.versions.0.schema", {}, "spec.versions[0].schema.openAPIV3Schema", "Required value: schemas are required"),
        ("CustomResourceDefinition", "spec.versions.0.schema.openAPIV3Schema", {"type": "object", "properties": {"a": {}}}, "spec.versions[0].schema.openAPIV3Schema.properties[a].type", "Required value: must not be empty for specified object fields"),
        ("CustomResourceDefinition", "spec.versions.0.schema.openAPIV3Schema.type", "array", "spec.versions[0].schema.openAPIV3Schema.type", 'Invalid value: "array": must be object at the root'),
        ("CustomResourceDefinition", "spec.scope", "World", "spec.scope", 'Unsupported value: "World": supported values: "Cluster", "Namespaced"'),
        ("CustomResourceDefinition", "spec.names.kind", "BoatList", "spec.names.listKind", 'Invalid value: "BoatList": kind and listKind may not be the same'),
        # flow control, scheduling, nodes
        ("FlowSchema", "spec.matchingPrecedence", 10001, "spec.matchingPrecedence", "Invalid value: 10001: must not be greater than 10000"),
        ("FlowSchema", "spec.rules", [{"subjects": [{"kind": "User"}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}], "spec.rules[0].subjects[0].user", "Required value: user is required when subject kind is 'User'"),
        ("PriorityLevelConfiguration", "spec.type", "Free", "spec.type", 'Unsupported value: "Free": supported values: "Exempt", "Limited"'),
        ("PriorityLevelConfiguration", "spec.limited.limitResponse", {"type": "Queue"}, "spec.limited.limitResponse.queuing", "Required value: must not be empty if limited.limitResponse.type is Limited"),
        ("PriorityClass", "value", 2_000_000_000, "value", "Forbidden: maximum allowed value of a user defined priority is 1000000000"),
        ("PriorityClass", "metadata.name", "system-mine", "metadata.name", "Forbidden: priority class names with 'system-' prefix are reserved for system use only."),
        ("RuntimeClass", "handler", "Big", "handler", 'Invalid value: "Big": a lowercase RFC 1123 label'),
        ("RuntimeClass", "handler", ..., "handler", "Required value"),
        ("Lease", "spec.leaseDurationSeconds", 0, "spec.leaseDurationSeconds", "Invalid value: 0: must be greater than 0"),
        ("Node", "spec.taints", [{"key": "a", "effect": "NoRun"}], "spec.taints[0].effect", 'Unsupported value: "NoRun": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"'),
        ("Namespace", "metadata.name", "a.b", "metadata.name", 'Invalid value: "a.b": a lowercase RFC 1123 label'),
        # events of the new group
        ("Event", "metadata.name", "A", "metadata.name", 'Invalid value: "A": a lowercase RFC 1123 subdomain'),
        ("Event", "reportingComponent", "", "reportingController", "Required value"),
        ("Event", "type", "Odd", "type", 'Invalid value: "": has invalid value: Odd'),
        ("Event", "series", {"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}, "series.count", 'Invalid value: "": should be at least 2'),
        # devices
        ("ResourceClaim", "spec.devices.requests.0", {"name": "r"}, "spec.devices.requests[0]", "Required value: exactly one of `exactly` or `firstAvailable` is required"),
        ("ResourceClaim", "spec.devices.requests.0.exactly.count", 0, "spec.devices.requests[0].exactly.count", "Invalid value: 0: must be greater than zero"),
        ("ResourceClaimTemplate", "spec.spec.devices.requests.0.exactly.deviceClassName", ..., "spec.spec.devices.requests[0].exactly.deviceClassName", "Required value"),
        ("ResourceSlice", "spec.allNodes", True, "spec", "Invalid value: "),
        ("ResourceSlice", "spec.pool.resourceSliceCount", 0, "spec.pool.resourceSliceCount", "Invalid value: 0: must be greater than zero"),
    ],
)  # fmt: skip
def test_a_broken_object(kind: str, path: str, value: Any, field: str, message: str) -> None:
    obj = made(kind)
    put(path, value)(obj)
    causes = found(kind, obj)
    assert field in causes, causes
    assert causes[field].startswith(message), causes[field]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("ClusterRole", "system:Any_thing"),
        ("RoleBinding", "kubeadm:get-nodes"),
        ("CertificateSigningRequest", "csr_X:1"),
    ],
)
def test_some_kinds_have_freer_names(kind: str, name: str) -> None:
    obj = made(kind)
    obj["metadata"]["name"] = name
    assert found(kind, obj) == {}


@pytest.mark.parametrize(
    ("kind", "path", "value", "field", "message"),
    [
        ("Deployment", "spec.selector.matchLabels", {"app": "b"}, "spec.selector", 'Invalid value: {"matchLabels":{"app":"b"}}: field is immutable'),
        ("DaemonSet", "spec.selector.matchLabels", {"app": "b"}, "spec.selector", 'Invalid value: {"matchLabels":{"app":"b"}}: field is immutable'),
        ("StatefulSet", "spec.serviceName", "other", "spec", "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"),
        ("ControllerRevision", "data.a", 1, "data", 'Invalid value: {"a":1}: field is immutable'),
        ("Job", "spec.completions", 2, "spec.completions", "Invalid value: 2: field is immutable"),
        ("Job", "spec.template.spec.containers.0.image", "j", "spec.template", "Invalid value: {"),
        ("PersistentVolume", "spec.hostPath.path", "/x", "spec.persistentvolumesource", "Forbidden: spec.persistentvolumesource is immutable after creation"),
        ("PersistentVolumeClaim", "spec.accessModes", ["ReadOnlyMany"], "spec", "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"),
        ("StorageClass", "parameters", {"a": "b"}, "parameters", "Forbidden: updates to parameters are forbidden."),
        ("StorageClass", "reclaimPolicy", "Retain", "reclaimPolicy", "Forbidden: updates to reclaimPolicy are forbidden."),
        ("StorageClass", "volumeBindingMode", "WaitForFirstConsumer", "volumeBindingMode", 'Invalid value: "WaitForFirstConsumer": field is immutable'),
        ("VolumeAttachment", "spec.nodeName", "n2", "spec", "Invalid value: {"),
        ("CSIDriver", "spec.attachRequired", True, "spec.attachRequired", "Invalid value: true: field is immutable"),
        ("RoleBinding", "roleRef.name", "other", "roleRef", 'Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"other"}: cannot change roleRef'),
        ("Secret", "type", "kubernetes.io/tls", "type", 'Invalid value: "kubernetes.io/tls": field is immutable'),
        ("PriorityClass", "value", 11, "value", "Forbidden: may not be changed in an update."),
        ("RuntimeClass", "handler", "h2", "handler", 'Invalid value: "h2": field is immutable'),
        ("IngressClass", "spec.controller", "example.com/other", "spec.controller", 'Invalid value: "example.com/other": field is immutable'),
        ("ServiceCIDR", "spec.cidrs", ["198.51.100.0/24"], "spec.cidrs", 'Invalid value: ["198.51.100.0/24"]: field is immutable'),
        ("IPAddress", "spec.parentRef.name", "t", "spec.parentRef", "Invalid value: {"),
        ("EndpointSlice", "addressType", "IPv6", "addressType", 'Invalid value: "IPv6": field is immutable'),
        ("CertificateSigningRequest", "spec.signerName", "example.com/other", "spec", "Invalid value: {"),
        ("CustomResourceDefinition", "spec.group", "example.org", "spec.group", 'Invalid value: "example.org": field is immutable'),
        ("ResourceClaim", "spec.devices.requests.0.name", "s", "spec", "Invalid value: {"),
        ("ResourceSlice", "spec.driver", "e.example.com", "spec.driver", 'Invalid value: "e.example.com": field is immutable'),
        ("Event", "reason", "Other", "reason", 'Invalid value: "Other": field is immutable'),
    ],
)  # fmt: skip
def test_what_may_not_change(kind: str, path: str, value: Any, field: str, message: str) -> None:
    old = made(kind)
    new = copy.deepcopy(old)
    put(path, value)(new)
    causes = {one.field: one.message for one in validation.validate_update(stored(kind), new, old, KINDS[kind])}
    assert field in causes, causes
    assert causes[field].startswith(message), causes[field]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_an_unchanged_object_may_be_written_again(kind: str) -> None:
    old = made(kind)
    assert validation.validate_update(stored(kind), copy.deepcopy(old), old, KINDS[kind]) == []


def test_a_lease_may_be_let_go_and_templates_leave_host_ports_to_the_pod() -> None:
    assert found("Lease", made("Lease", holderIdentity="")) == {}
    obj = made("DaemonSet")
    pod = obj["spec"]["template"]["spec"]
    pod["hostNetwork"] = True
    pod["containers"][0]["ports"] = [{"containerPort": 80, "protocol": "TCP"}]
    assert found("DaemonSet", obj) == {}
    pod["containers"][0]["ports"][0]["hostPort"] = 81
    field = "spec.template.spec.containers[0].ports[0].hostPort"
    assert found("DaemonSet", obj) == {
        field: "Invalid value: 81: must match `containerPort` when `hostNetwork` is true"
    }


def test_the_pods_of_a_stateful_set_may_mount_its_claims() -> None:
    obj = made("StatefulSet")
    obj["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    assert list(found("StatefulSet", obj).values()) == ['Not found: "data"']
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    obj["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    assert found("StatefulSet", obj) == {}


def test_a_bound_claim_may_grow_and_shrink_back_to_what_it_has() -> None:
    old = made("PersistentVolumeClaim", volumeName="v")
    old["status"] = {"phase": "Bound", "capacity": {"storage": "1Gi"}}

    def resized(size: str) -> list[str]:
        new = copy.deepcopy(old)
        new["spec"]["resources"]["requests"]["storage"] = size
        return [one.message for one in validation.validate_update(KINDS["PersistentVolumeClaim"], new, old)]

    assert resized("2Gi") == []
    assert resized("512Mi") == ["Forbidden: field can not be less than status.capacity"]


def test_a_spec_that_is_as_it_was_is_not_judged_again() -> None:
    """Objects older than a rule can still get their status."""
    old = made("Deployment")
    old["spec"]["replicas"] = -1
    new = copy.deepcopy(old) | {"status": {"replicas": 1}}
    assert validation.validate_update(KINDS["Deployment"], new, old) == []
    new["status"] = {"replicas": -1}
    assert [one.field for one in validation.validate_update(KINDS["Deployment"], new, old)] == ["status.replicas"]


def test_source_ranges_may_have_spaces_around_them() -> None:
    obj = made("Service")
    obj["spec"] |= {"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.244.0.0/24 ", "\t2001:db8::/64"]}
    assert found("Service", obj) == {}


def test_approval_and_denial_exclude_each_other_and_stay() -> None:
    gvk, old = KINDS["CertificateSigningRequest"], made("CertificateSigningRequest")
    approved = {"type": "Approved", "status": "True"}
    old["status"] = {"conditions": [approved]}
    both = copy.deepcopy(old) | {"status": {"conditions": [approved, {"type": "Denied", "status": "True"}]}}
    assert "mutually exclusive" in validation.validate_update(gvk, both, old)[0].message
    none = copy.deepcopy(old) | {"status": {}}
    assert "may not remove a condition" in validation.validate_update(gvk, none, old)[0].message


@pytest.mark.parametrize("gvk", sorted(manifests.kinds()), ids=lambda gvk: gvk.kind)
@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_nonsense_is_judged_not_stumbled_over(gvk: GVK, data: st.DataObject) -> None:
    name = schema.type_name(gvk)
    assert name is not None
    obj = defaults.apply(codec.conform(data.draw(values(name, 4)), name)[0], gvk)
    obj["metadata"] = {"name": "x", "namespace": "default"}
    older = defaults.apply(codec.conform(data.draw(values(name, 4)), name)[0], gvk) | {"metadata": obj["metadata"]}
    validation.validate_create(gvk, obj)
    if "spec" in obj and "spec" in older:
        validation.validate_update(gvk, obj, older)


def test_rules_are_about_types_and_fields_that_are_there() -> None:
    assert rules.registered().keys() <= schema.load().types.keys()
    for name in rules.registered():
        rules.walker(name)  # raises where a rule names a field that its type does not have


def test_the_same_rules_hold_wherever_a_type_occurs() -> None:
    container = {"name": "C", "image": "i"}
    fields = {
        "Pod": "spec.containers[0].name",
        "Deployment": "spec.template.spec.containers[0].name",
        "CronJob": "spec.jobTemplate.spec.template.spec.containers[0].name",
        "PodTemplate": "template.spec.containers[0].name",
    }
    for kind, field in fields.items():
        obj = made(kind)
        at: Any = obj
        for part in field.removesuffix(".containers[0].name").split("."):
            at = at[part]
        at["containers"] = [defaults_of(container)]
        assert field in found(kind, obj)


def defaults_of(container: Obj) -> Obj:
    pod = defaults.apply({"spec": {"containers": [dict(container)]}}, GVK("", "v1", "Pod"))
    one: Obj = pod["spec"]["containers"][0]
    return one
