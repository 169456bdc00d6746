"""The audit policy: rules, of which the first that matches a request says how much of it is written down.

A file of kind Policy, audit.k8s.io/v1 (apis/audit/validation and audit/policy/checker.go are the reference); unknown keys
are refused, because a misspelt rule is one that never matches.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import yaml

from apiserver.authorization import Attributes
from kube.errors import UsageError

Stage = Literal["RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"]
FLAG: Final = "--audit-policy-file"


class Level(IntEnum):
    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3

    @property
    def word(self) -> str:
        return _WORDS[self]


_WORDS: Final = {
    Level.NONE: "None",
    Level.METADATA: "Metadata",
    Level.REQUEST: "Request",
    Level.REQUEST_RESPONSE: "RequestResponse",
}


class GroupResources(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    group: str = ""
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()


class Rule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    level: Literal["None", "Metadata", "Request", "RequestResponse"]
    users: tuple[str, ...] = ()
    user_groups: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    resources: tuple[GroupResources, ...] = ()
    namespaces: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = msgspec.field(default=(), name="nonResourceURLs")
    omit_stages: tuple[Stage, ...] = ()
    omit_managed_fields: bool | None = None


class Policy(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    api_version: Literal["audit.k8s.io/v1"]
    kind: Literal["Policy"]
    rules: tuple[Rule, ...]
    omit_stages: tuple[Stage, ...] = ()
    omit_managed_fields: bool = False
    metadata: dict[str, Any] = {}


class Outcome(msgspec.Struct, frozen=True):
    """How much of a request is written down, and at which stages not."""

    level: Level
    omit_stages: frozenset[str] = frozenset()
    omit_managed_fields: bool = False


NOTHING: Final = Outcome(Level.NONE)


def load(path: str) -> Policy:
    """Raises UsageError."""
    try:
        document = yaml.safe_load(Path(path).read_bytes())
        policy = msgspec.convert(document, Policy, strict=True)
    except OSError as error:
        raise UsageError(f"{FLAG} {path}: {error.strerror}; name a readable Policy file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{FLAG} {path}: {' '.join(str(error).split())}; write YAML") from error
    except msgspec.ValidationError as error:
        raise UsageError(f"{FLAG} {path}: {str(error).replace('`', '')}; see kind Policy of audit.k8s.io/v1") from error
    if not policy.rules:
        raise UsageError(f"{FLAG} {path}: rules: is empty; a policy has at least one rule")
    for index, rule in enumerate(policy.rules):
        if wrong := _wrong(rule):
            raise UsageError(f"{FLAG} {path}: rules[{index}].{wrong}")
    return policy


def _wrong(rule: Rule) -> str:
    if rule.non_resource_urls and (rule.resources or rule.namespaces):
        return "nonResourceURLs: a rule is about paths, or about resources and namespaces; write two rules"
    for url in rule.non_resource_urls:
        if url != "*" and (not url.startswith("/") or "*" in url[:-1]):
            return f"nonResourceURLs: {url!r}: write a path that begins with '/', a '*' only at its end"
    for of_group in rule.resources:
        if "/" in of_group.group:
            return f"resources.group: {of_group.group!r}: write the group without its version"
        if of_group.resource_names and not of_group.resources:
            return "resources.resourceNames: name the resources too"
    return ""


def outcome(policy: Policy, asked: Attributes) -> Outcome:
    for rule in policy.rules:
        if _matches(rule, asked):
            omit = rule.omit_managed_fields
            return Outcome(
                _LEVELS[rule.level],
                frozenset((*policy.omit_stages, *rule.omit_stages)),
                policy.omit_managed_fields if omit is None else omit,
            )
    return NOTHING


_LEVELS: Final = {word: level for level, word in _WORDS.items()}


def _matches(rule: Rule, asked: Attributes) -> bool:
    if rule.users and asked.user.name not in rule.users:
        return False
    if rule.user_groups and not any(group in rule.user_groups for group in asked.user.groups):
        return False
    if rule.verbs and asked.verb not in rule.verbs:
        return False
    if rule.namespaces or rule.resources:
        return bool(asked.resource) and _matches_resource(rule, asked)
    if rule.non_resource_urls:
        return not asked.resource and any(_matches_path(url, asked.path) for url in rule.non_resource_urls)
    return True


def _matches_resource(rule: Rule, asked: Attributes) -> bool:
    if rule.namespaces and asked.namespace not in rule.namespaces:
        return False
    if not rule.resources:
        return True
    return any(
        of_group.group == asked.group
        and (not of_group.resources or any(_same(one, asked) for one in of_group.resources))
        and (not of_group.resource_names or asked.name in of_group.resource_names)
        for of_group in rule.resources
    )


def _same(wanted: str, asked: Attributes) -> bool:
    if wanted == "*":
        return True
    resource, _, subresource = wanted.partition("/")
    if resource == "*":
        return bool(asked.subresource) and subresource == asked.subresource
    if subresource == "*":
        return resource == asked.resource
    return resource == asked.resource and subresource == asked.subresource


def _matches_path(wanted: str, path: str) -> bool:
    return path == wanted or (wanted.endswith("*") and path.startswith(wanted[:-1]))
