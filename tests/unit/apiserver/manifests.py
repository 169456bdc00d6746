"""A small valid object of every kind that is served: what the API-operations tests make, change and delete."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any, Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apiserver.schema import GVK

Obj = dict[str, Any]

TEMPLATE: Final = "template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}"
ONCE: Final = "template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}"
SELECTOR: Final = "selector: {matchLabels: {app: a}}"
RULES: Final = "resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]"
WEBHOOK: Final = """\
webhooks:
- name: hook.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  clientConfig: {url: 'https://hook.example.com/'}
  rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}]
"""

DOCUMENTS: Final = f"""\
{{apiVersion: v1, kind: ConfigMap, data: {{a: b}}}}
---
{{apiVersion: v1, kind: Endpoints, subsets: [{{addresses: [{{ip: 10.0.0.1}}], ports: [{{port: 80}}]}}]}}
---
apiVersion: v1
kind: Event
involvedObject: {{kind: Pod, name: p, namespace: default, apiVersion: v1}}
reason: Seen
message: something was seen
type: Normal
---
{{apiVersion: v1, kind: LimitRange, spec: {{limits: [{{type: Pod, max: {{cpu: "2"}}}}]}}}}
---
{{apiVersion: v1, kind: Namespace}}
---
{{apiVersion: v1, kind: Node, spec: {{unschedulable: true}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: PersistentVolume
spec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], hostPath: {{path: /tmp}}}}
---
{{apiVersion: v1, kind: Pod, spec: {{containers: [{{name: c, image: i}}]}}}}
---
{{apiVersion: v1, kind: PodTemplate, {TEMPLATE}}}
---
{{apiVersion: v1, kind: ReplicationController, spec: {{replicas: 1, selector: {{app: a}}, {TEMPLATE}}}}}
---
{{apiVersion: v1, kind: ResourceQuota, spec: {{hard: {{pods: "5"}}}}}}
---
{{apiVersion: v1, kind: Secret, stringData: {{a: b}}}}
---
{{apiVersion: v1, kind: ServiceAccount}}
---
{{apiVersion: v1, kind: Service, spec: {{selector: {{app: a}}, ports: [{{port: 80}}]}}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
spec:
  reinvocationPolicy: Never
  failurePolicy: Fail
  matchConstraints: {{{RULES}}}
  mutations: [{{patchType: JSONPatch, jsonPatch: {{expression: "[]"}}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
spec: {{policyName: p}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
{WEBHOOK}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
spec: {{matchConstraints: {{{RULES}}}, validations: [{{expression: "true"}}]}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
spec: {{policyName: p, validationActions: [Deny]}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
{WEBHOOK}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
spec:
  group: example.com
  scope: Namespaced
  names: {{plural: boats, singular: boat, kind: Boat, listKind: BoatList}}
  versions:
  - {{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}
---
{{apiVersion: apps/v1, kind: ControllerRevision, revision: 1, data: {{a: {{b: [1]}}}}}}
---
{{apiVersion: apps/v1, kind: DaemonSet, spec: {{{SELECTOR}, {TEMPLATE}}}}}
---
{{apiVersion: apps/v1, kind: Deployment, spec: {{{SELECTOR}, {TEMPLATE}}}}}
---
{{apiVersion: apps/v1, kind: ReplicaSet, spec: {{{SELECTOR}, {TEMPLATE}}}}}
---
{{apiVersion: apps/v1, kind: StatefulSet, spec: {{serviceName: s, {SELECTOR}, {TEMPLATE}}}}}
---
apiVersion: autoscaling/v1
kind: HorizontalPodAutoscaler
spec: {{maxReplicas: 3, scaleTargetRef: {{kind: Deployment, name: d, apiVersion: apps/v1}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
spec: {{maxReplicas: 3, scaleTargetRef: {{kind: Deployment, name: d, apiVersion: apps/v1}}}}
---
{{apiVersion: batch/v1, kind: CronJob, spec: {{schedule: "*/5 * * * *", jobTemplate: {{spec: {{{ONCE}}}}}}}}}
---
{{apiVersion: batch/v1, kind: Job, spec: {{{ONCE}}}}}
---
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
spec: {{request: REQUEST, signerName: example.com/signer, usages: [client auth]}}
---
{{apiVersion: coordination.k8s.io/v1, kind: Lease, spec: {{holderIdentity: me, leaseDurationSeconds: 10}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
endpoints: [{{addresses: [10.0.0.1]}}]
ports: [{{name: http, port: 80}}]
---
apiVersion: events.k8s.io/v1
kind: Event
eventTime: "2026-01-01T00:00:00.000000Z"
reportingController: test.example.com/one
reportingInstance: one-1
action: Look
reason: Seen
note: something was seen
type: Normal
regarding: {{kind: Pod, name: p, namespace: default, apiVersion: v1}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
spec: {{matchingPrecedence: 10000, priorityLevelConfiguration: {{name: global-default}}}}
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: PriorityLevelConfiguration
spec: {{type: Limited, limited: {{nominalConcurrencyShares: 2, limitResponse: {{type: Reject}}}}}}
---
{{apiVersion: networking.k8s.io/v1, kind: IngressClass, spec: {{controller: example.com/controller}}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
spec: {{defaultBackend: {{service: {{name: s, port: {{number: 80}}}}}}}}
---
apiVersion: networking.k8s.io/v1
kind: IPAddress
metadata: {{name: 192.0.2.N}}
spec: {{parentRef: {{resource: services, namespace: default, name: s}}}}
---
{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, spec: {{podSelector: {{}}}}}}
---
{{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, spec: {{cidrs: [198.51.100.N0/28]}}}}
---
{{apiVersion: node.k8s.io/v1, kind: RuntimeClass, handler: other}}
---
{{apiVersion: policy/v1, kind: PodDisruptionBudget, spec: {{minAvailable: 1, {SELECTOR}}}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: r}}
subjects: [{{kind: User, name: u, apiGroup: rbac.authorization.k8s.io}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
rules: [{{apiGroups: [''], resources: [pods], verbs: [get]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}}
subjects: [{{kind: ServiceAccount, name: s, namespace: default}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
rules: [{{apiGroups: [''], resources: [pods], verbs: [get]}}]
---
{{apiVersion: resource.k8s.io/v1, kind: DeviceClass, spec: {{selectors: [{{cel: {{expression: "true"}}}}]}}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: c.example.com}}}}]}}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
spec: {{spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: c.example.com}}}}]}}}}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
spec:
  driver: d.example.com
  pool: {{name: p, generation: 1, resourceSliceCount: 1}}
  nodeName: n1
  devices: [{{name: d}}]
---
{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, value: 10}}
---
{{apiVersion: storage.k8s.io/v1, kind: CSIDriver, spec: {{attachRequired: false}}}}
---
{{apiVersion: storage.k8s.io/v1, kind: CSINode, spec: {{drivers: []}}}}
---
{{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, storageClassName: s, capacity: 1Gi}}
---
{{apiVersion: storage.k8s.io/v1, kind: StorageClass, provisioner: example.com/p}}
---
apiVersion: storage.k8s.io/v1
kind: VolumeAttachment
spec: {{attacher: example.com, nodeName: n1, source: {{persistentVolumeName: v}}}}
---
{{apiVersion: storage.k8s.io/v1, kind: VolumeAttributesClass, driverName: example.com, parameters: {{a: b}}}}
"""


@cache
def _documents() -> dict[GVK, str]:
    return {GVK.of(yaml.safe_load(text)): text for text in DOCUMENTS.split("---\n")}


@cache
def certificate_request() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "me")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode()


def kinds() -> frozenset[GVK]:
    return frozenset(_documents())


def manifest(gvk: GVK, number: int = 0) -> Obj:
    """The `number`th object of a kind, named and labelled; raises KeyError for a kind that has none here."""
    text = (
        _documents()[gvk]
        .replace("192.0.2.N", f"192.0.2.{number + 1}")
        .replace("198.51.100.N0", f"198.51.{100 + number}.0")
        .replace("REQUEST", certificate_request())
    )
    obj: Obj = yaml.safe_load(text)
    name = {"CustomResourceDefinition": "boats.example.com"}.get(gvk.kind, f"one-{number}")
    metadata = {"name": name, "labels": {"made": "here"}} | obj.get("metadata", {})
    if gvk.kind == "CustomResourceDefinition" and number:
        plural = f"boats{number}"
        obj["spec"]["names"] |= {
            "plural": plural,
            "singular": plural,
            "kind": f"Boat{number}",
            "listKind": f"B{number}List",
        }
        metadata["name"] = f"{plural}.example.com"
    if gvk.kind == "Event":
        metadata["namespace"] = "default"
    return obj | {"metadata": metadata}
