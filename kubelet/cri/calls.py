"""The calls of CRI v1 that the kubelet makes."""

from __future__ import annotations

from kubelet.cri import runtime_pb2 as pb
from kubelet.cri.client import A, Call, Q

API_VERSION = "v1"


def _runtime(name: str, question: type[Q], answer: type[A], operation: str) -> Call[Q, A]:
    return Call(f"/runtime.v1.RuntimeService/{name}", question, answer, operation)


def _image(name: str, question: type[Q], answer: type[A], operation: str) -> Call[Q, A]:
    return Call(f"/runtime.v1.ImageService/{name}", question, answer, operation)


VERSION = _runtime("Version", pb.VersionRequest, pb.VersionResponse, "version")
STATUS = _runtime("Status", pb.StatusRequest, pb.StatusResponse, "status")
RUNTIME_CONFIG = _runtime("RuntimeConfig", pb.RuntimeConfigRequest, pb.RuntimeConfigResponse, "runtime_config")

RUN_SANDBOX = _runtime("RunPodSandbox", pb.RunPodSandboxRequest, pb.RunPodSandboxResponse, "run_podsandbox")
STOP_SANDBOX = _runtime("StopPodSandbox", pb.StopPodSandboxRequest, pb.StopPodSandboxResponse, "stop_podsandbox")
REMOVE_SANDBOX = _runtime(
    "RemovePodSandbox", pb.RemovePodSandboxRequest, pb.RemovePodSandboxResponse, "remove_podsandbox"
)
SANDBOX_STATUS = _runtime(
    "PodSandboxStatus", pb.PodSandboxStatusRequest, pb.PodSandboxStatusResponse, "podsandbox_status"
)
LIST_SANDBOXES = _runtime("ListPodSandbox", pb.ListPodSandboxRequest, pb.ListPodSandboxResponse, "list_podsandbox")

CREATE = _runtime("CreateContainer", pb.CreateContainerRequest, pb.CreateContainerResponse, "create_container")
START = _runtime("StartContainer", pb.StartContainerRequest, pb.StartContainerResponse, "start_container")
STOP = _runtime("StopContainer", pb.StopContainerRequest, pb.StopContainerResponse, "stop_container")
REMOVE = _runtime("RemoveContainer", pb.RemoveContainerRequest, pb.RemoveContainerResponse, "remove_container")
LIST = _runtime("ListContainers", pb.ListContainersRequest, pb.ListContainersResponse, "list_containers")
CONTAINER_STATUS = _runtime(
    "ContainerStatus", pb.ContainerStatusRequest, pb.ContainerStatusResponse, "container_status"
)
UPDATE = _runtime(
    "UpdateContainerResources",
    pb.UpdateContainerResourcesRequest,
    pb.UpdateContainerResourcesResponse,
    "update_container",
)
REOPEN_LOG = _runtime(
    "ReopenContainerLog", pb.ReopenContainerLogRequest, pb.ReopenContainerLogResponse, "reopen_container_log"
)

EXEC_SYNC = _runtime("ExecSync", pb.ExecSyncRequest, pb.ExecSyncResponse, "exec_sync")
EXEC = _runtime("Exec", pb.ExecRequest, pb.ExecResponse, "exec")
ATTACH = _runtime("Attach", pb.AttachRequest, pb.AttachResponse, "attach")
EVENTS = _runtime("GetContainerEvents", pb.GetEventsRequest, pb.ContainerEventResponse, "get_container_events")

LIST_IMAGES = _image("ListImages", pb.ListImagesRequest, pb.ListImagesResponse, "list_images")
IMAGE_STATUS = _image("ImageStatus", pb.ImageStatusRequest, pb.ImageStatusResponse, "image_status")
PULL = _image("PullImage", pb.PullImageRequest, pb.PullImageResponse, "pull_image")
REMOVE_IMAGE = _image("RemoveImage", pb.RemoveImageRequest, pb.RemoveImageResponse, "remove_image")
IMAGE_FS = _image("ImageFsInfo", pb.ImageFsInfoRequest, pb.ImageFsInfoResponse, "image_fs_info")
