"""Core v1: where a pod's containers get values and files from: environment and volumes."""

import msgspec

from kube.meta import Object


class KeySelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A key of a ConfigMap or Secret in the pod's namespace."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class ObjectFieldSelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    api_version: str = "v1"
    field_path: str = ""


class ResourceFieldSelector(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    container_name: str = ""
    resource: str = ""
    divisor: str = ""


class EnvVarSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    prefix: str = ""
    config_map_ref: EnvSource | None = None
    secret_ref: EnvSource | None = None


class KeyToPath(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    key: str = ""
    path: str = ""
    mode: int | None = None


class EmptyDirVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    medium: str = ""
    size_limit: str | None = None


class HostPathVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str = ""
    type: str | None = None


class ConfigMapVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class SecretVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int | None = None
    optional: bool | None = None


class DownwardAPIVolumeFile(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    path: str = ""
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    items: tuple[DownwardAPIVolumeFile, ...] = ()
    default_mode: int | None = None


class SecretProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class ConfigMapProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    optional: bool | None = None


class ServiceAccountTokenProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    audience: str = ""
    expiration_seconds: int | None = None
    path: str = ""


class VolumeProjection(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    secret: SecretProjection | None = None
    config_map: ConfigMapProjection | None = None
    downward_api: DownwardAPIVolumeSource | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None


class ProjectedVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    sources: tuple[VolumeProjection, ...] = ()
    default_mode: int | None = None


class PersistentVolumeClaimVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    claim_name: str = ""
    read_only: bool = False


class EphemeralVolumeSource(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A claim of the pod's own, `POD-VOLUME`; its template is the API server's matter."""


class Volume(Object, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The source is the one field that is set."""

    name: str = ""
    empty_dir: EmptyDirVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    downward_api: DownwardAPIVolumeSource | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolumeSource | None = None
    persistent_volume_claim: PersistentVolumeClaimVolumeSource | None = None
    ephemeral: EphemeralVolumeSource | None = None
