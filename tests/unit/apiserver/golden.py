"""Upstream's golden objects: every field of every kind filled in, as JSON and as protobuf.

`golden.json.xz` holds the pairs of the kinds that the schema table knows, {file name: [object, base64 of the .pb]}. It is
written from a folder like k8s.io/api/testdata/HEAD (Apache-2.0, Copyright The Kubernetes Authors) by

    python -m tests.unit.apiserver.golden FOLDER
"""

import base64
import json
import lzma
import sys
from pathlib import Path
from typing import Any

from apiserver import schema
from apiserver.schema import GVK

FILE = Path(__file__).with_name("golden.json.xz")


def load() -> dict[str, tuple[dict[str, Any], bytes]]:
    pairs = json.loads(lzma.decompress(FILE.read_bytes()))
    return {name: (obj, base64.b64decode(wire)) for name, (obj, wire) in pairs.items()}


def write(folder: Path) -> int:
    pairs: dict[str, tuple[Any, str]] = {}
    for path in sorted(folder.glob("*.json")):
        obj = json.loads(path.read_text())
        if schema.type_of(GVK.of(obj)) is not None:
            pairs[path.stem] = obj, base64.b64encode(path.with_suffix(".pb").read_bytes()).decode()
    FILE.write_bytes(lzma.compress(json.dumps(pairs, separators=(",", ":")).encode(), preset=9))
    return len(pairs)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])), "pairs")
