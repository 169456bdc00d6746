"""A document that does not change while the server runs: discovery and OpenAPI, with the tag that saves sending it twice."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson


@dataclass(frozen=True, slots=True)
class Document:
    """`gzipped` is made once, as these documents are asked for by every kubectl that starts."""

    body: bytes
    content_type: str
    etag: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    gzipped: bytes = b""

    @property
    def digest(self) -> str:
        return self.etag.strip('"')


def fixed(content: object, content_type: str = "application/json") -> Document:
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return Document(
        body,
        content_type,
        f'"{hashlib.sha256(body).hexdigest().upper()}"',
        {"Vary": "Accept-Encoding, Accept"},
        gzip.compress(body, 6, mtime=0),
    )
