"""Bodies to objects: JSON, YAML and protobuf in; objects are plain JSON dicts that conform to the schema table."""

from apiserver.codec.body import (
    JSON,
    PROTOBUF,
    SUPPORTED,
    YAML,
    Decoded,
    FieldValidation,
    Strict,
    conforming,
    decode_body,
    media_type,
)
from apiserver.codec.conform import Mismatch, conform, instant

__all__ = [
    "JSON",
    "PROTOBUF",
    "SUPPORTED",
    "YAML",
    "Decoded",
    "FieldValidation",
    "Mismatch",
    "Strict",
    "conform",
    "conforming",
    "decode_body",
    "instant",
    "media_type",
]
