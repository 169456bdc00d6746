"""Events about pods and their containers, in upstream's form."""

import logging

from kube.events import Recorder, Reference
from kube.pods import Pod

log = logging.getLogger(__name__)


class Told:
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def pod(self, pod: Pod, kind: str, reason: str, message: str, field: str = "") -> None:
        log.info("pod %s: %s: %s", pod.metadata.key, reason, message)
        about = Reference.of(pod, kind="Pod", field_path=field)
        self._recorder.event(about, "Warning" if kind == "Warning" else "Normal", reason, message)

    def container(self, pod: Pod, name: str, kind: str, reason: str, message: str) -> None:
        group = "containers"
        if any(c.name == name for c in pod.spec.init_containers):
            group = "initContainers"
        elif any(c.name == name for c in pod.spec.ephemeral_containers):
            group = "ephemeralContainers"
        self.pod(pod, kind, reason, message, f"spec.{group}{{{name}}}")
