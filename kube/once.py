"""YAML in which no mapping names a key twice.

The parser alone lets the last one win, silently: whoever reads the file from its top is told something that does not hold.
The stock daemons' decoders refuse such files. JSON is YAML here, so this holds for JSON files too.
"""

from typing import Any

import yaml


class Repeated(yaml.MarkedYAMLError):
    """A key is there a second time; where, its mark says."""


class _Loader(yaml.SafeLoader):
    """Looks at mappings as they are written, before `<<` brings in keys that may be overridden."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused where the mapping is made
            if (key.tag, key.value) in seen:
                raise Repeated(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def loads(content: bytes) -> Any:
    """The one document; raises yaml.YAMLError (Repeated among them) and UnicodeDecodeError."""
    return yaml.load(content, Loader=_Loader)
