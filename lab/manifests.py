"""Applying a manifest file the simple way: create what is missing, merge-patch what is there."""

from pathlib import Path
from typing import Any

import yaml

from kube.client import Client
from kube.errors import AlreadyExists
from kube.resources import DEPLOYMENTS, SERVICES, Resource

_KINDS: dict[str, Resource[Any]] = {"Deployment": DEPLOYMENTS, "Service": SERVICES}


async def apply(client: Client, path: Path) -> None:
    """Every object of a YAML file, into the namespace it names or `default`."""
    for document in yaml.safe_load_all(path.read_text()):
        resource = _KINDS[document["kind"]]
        namespace = document["metadata"].get("namespace", "default")
        try:
            await client.create(resource, document, namespace)
        except AlreadyExists:
            await client.patch(resource, document["metadata"]["name"], document, namespace)
