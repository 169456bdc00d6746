"""Registry credentials: what a pod's imagePullSecrets hold for an image."""

import base64
import json
import logging
from collections.abc import Mapping

from kube.core import Secret
from kube.pods import Pod
from kubelet.runtime import RegistryAuth

log = logging.getLogger(__name__)


def pull_secrets(pod: Pod, secrets: Mapping[str, Secret], image: str) -> list[RegistryAuth]:
    """The credentials that the pod's imagePullSecrets hold for the image's registry."""
    first, slash, _ = image.partition("/")
    registry = first if slash and ("." in first or ":" in first) else "index.docker.io"
    found = []
    for reference in pod.spec.image_pull_secrets:
        secret = secrets.get(reference.name)
        encoded = secret.data.get(".dockerconfigjson", "") if secret else ""
        if not encoded:
            continue
        try:
            auths = json.loads(base64.b64decode(encoded)).get("auths", {})
        except (ValueError, AttributeError):
            log.warning("secret %s/%s: .dockerconfigjson is not valid JSON", pod.metadata.namespace, reference.name)
            continue
        for server, entry in auths.items():
            host = server.removeprefix("https://").removeprefix("http://").split("/")[0]
            if host != registry:
                continue
            user, password = entry.get("username", ""), entry.get("password", "")
            if entry.get("auth"):
                user, _, password = base64.b64decode(entry["auth"]).decode(errors="replace").partition(":")
            found.append(RegistryAuth(username=user, password=password))
    return found
