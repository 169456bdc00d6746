"""What names, labels, keys and ports may look like, and the sentences that say so.

After k8s.io/apimachinery/pkg/util/validation: each function returns the sentences that apply, none when all is well.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any, Final

Rule = Callable[[str], Sequence[str]]

_LABEL_TEXT: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_TEXT: Final = rf"{_LABEL_TEXT}(\.{_LABEL_TEXT})*"
_1035_TEXT: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_NAME_TEXT: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_VALUE_TEXT: Final = f"({_NAME_TEXT})?"
_KEY_TEXT: Final = "[-._a-zA-Z0-9]+"
_LABEL: Final = re.compile(_LABEL_TEXT)
_SUBDOMAIN: Final = re.compile(_SUBDOMAIN_TEXT)
_1035: Final = re.compile(_1035_TEXT)
_NAME: Final = re.compile(_NAME_TEXT)
_VALUE: Final = re.compile(_VALUE_TEXT)
_KEY: Final = re.compile(_KEY_TEXT)
_PRINTABLE: Final = re.compile(r"[ -<>-~]+")
_SERVICE_NAME: Final = re.compile(r"[-a-z0-9]+")
_PERCENT: Final = re.compile(r"[0-9]+%")
_HEADER: Final = re.compile("[-A-Za-z0-9]+")
_WILDCARD: Final = re.compile(rf"\*\.{_SUBDOMAIN_TEXT}")
_DOMAIN_PATH: Final = re.compile(r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+")
_IDENTIFIER: Final = re.compile("[A-Za-z_][A-Za-z0-9_]*")

OUTSIDE_PORTS: Final = "must be between 1 and 65535, inclusive"
NEGATIVE: Final = "must be greater than or equal to 0"
IMMUTABLE: Final = "field is immutable"
NOT_AN_IP: Final = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def _remembered(rule: Rule) -> Rule:
    """The same few hundred names come in every object of a cluster."""
    return lru_cache(maxsize=4096)(rule)


def _regex(message: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{message} (e.g. {shown}regex used for validation is '{pattern}')"


def longest(limit: int) -> str:
    return f"must be no more than {limit} bytes"


_LABEL_MESSAGE: Final = _regex(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character",
    _LABEL_TEXT,
    "my-name",
    "123-abc",
)
_SUBDOMAIN_MESSAGE: Final = _regex(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character",
    _SUBDOMAIN_TEXT,
    "example.com",
)
_1035_MESSAGE: Final = _regex(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character",
    _1035_TEXT,
    "my-name",
    "abc-123",
)
_NAME_MESSAGE: Final = _regex(
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
    _NAME_TEXT,
    "MyName",
    "my.name",
    "123-abc",
)
_VALUE_MESSAGE: Final = _regex(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
    "and end with an alphanumeric character",
    _VALUE_TEXT,
    "MyValue",
    "my_value",
    "12345",
)
_KEY_MESSAGE: Final = _regex(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    _KEY_TEXT,
    "key.name",
    "KEY_NAME",
    "key-name",
)


def _matching(text: str, limit: int, pattern: re.Pattern[str], message: str) -> list[str]:
    if len(text) <= limit and pattern.fullmatch(text):
        return []
    found = [longest(limit)] if len(text) > limit else []
    return found if pattern.fullmatch(text) else [*found, message]


@_remembered
def dns_label(text: str) -> Sequence[str]:
    return _matching(text, 63, _LABEL, _LABEL_MESSAGE)


@_remembered
def dns_subdomain(text: str) -> Sequence[str]:
    return _matching(text, 253, _SUBDOMAIN, _SUBDOMAIN_MESSAGE)


def dns_1035_label(text: str) -> list[str]:
    return _matching(text, 63, _1035, _1035_MESSAGE)


@_remembered
def label_value(text: str) -> Sequence[str]:
    return _matching(text, 63, _VALUE, _VALUE_MESSAGE)


def path_segment(text: str) -> list[str]:
    """Any name that can stand between two slashes of a URL."""
    if text in {".", ".."}:
        return [f"may not be '{text}'"]
    return [f"may not contain '{one}'" for one in "/%" if one in text]


@_remembered
def qualified_name(text: str) -> Sequence[str]:
    """`name` or `prefix.example.com/name`: label and annotation keys, taints, finalizers, extended resources."""
    prefix, slash, name = text.rpartition("/")
    found: list[str] = []
    if "/" in prefix:
        return [
            f"a qualified name {_NAME_MESSAGE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        ]
    if slash:
        if not prefix:
            found.append("prefix part must be non-empty")
        else:
            found.extend(f"prefix part {one}" for one in dns_subdomain(prefix))
    if not name:
        found.append("name part must be non-empty")
    elif len(name) > 63:
        found.append(f"name part {longest(63)}")
    if not _NAME.fullmatch(name):
        found.append(f"name part {_NAME_MESSAGE}")
    return found


@_remembered
def config_key(text: str) -> Sequence[str]:
    found = _matching(text, 253, _KEY, _KEY_MESSAGE)
    if text == ".":
        found.append("must not be '.'")
    elif text == "..":
        found.append("must not be '..'")
    elif text.startswith(".."):
        found.append("must not start with '..'")
    return found


@_remembered
def environment_name(text: str) -> Sequence[str]:
    if _PRINTABLE.fullmatch(text):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


@_remembered
def port_name(text: str) -> Sequence[str]:
    """IANA_SVC_NAME, RFC 6335: at most 15 of a-z, 0-9 and single hyphens, with a letter among them."""
    found: list[str] = []
    if len(text) > 15:
        found.append("must be no more than 15 characters")
    if not _SERVICE_NAME.fullmatch(text):
        found.append("must contain only alphanumeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        found.append("must contain at least one letter (a-z)")
    if "--" in text:
        found.append("must not contain consecutive hyphens")
    if text.startswith("-") or text.endswith("-"):
        found.append("must not begin or end with a hyphen")
    return found


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else [OUTSIDE_PORTS]


def port(value: Any) -> Sequence[str]:
    """A port by number or by name."""
    return port_number(value) if isinstance(value, int) else port_name(str(value))


def ip(text: str) -> list[str]:
    try:
        ip_address(text)
    except ValueError:
        return [NOT_AN_IP]
    return []


def cidr(text: str) -> list[str]:
    try:
        if "/" in text:
            ip_network(text, strict=False)
            return []
    except ValueError:
        pass
    return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]


def percent(text: str) -> list[str]:
    if _PERCENT.fullmatch(text):
        return []
    return [_regex("a valid percent string must be a numeric string followed by an ending '%'", "[0-9]+%", "1%", "93%")]


def http_header(text: str) -> list[str]:
    if _HEADER.fullmatch(text):
        return []
    detail = "a valid HTTP header must consist of alphanumeric characters or '-'"
    return [_regex(detail, _HEADER.pattern, "X-Header-Name")]


def wildcard_subdomain(text: str) -> Sequence[str]:
    if _WILDCARD.fullmatch(text) and len(text) <= 253:
        return []
    detail = (
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
        "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character"
    )
    return [_regex(detail, rf"\*\.{_SUBDOMAIN_TEXT}", "*.example.com")]


def cron_job_name(text: str) -> Sequence[str]:
    """A CronJob leaves eleven characters to the time that its Jobs are named after."""
    if len(text) > 52:
        return [*dns_subdomain(text), "must be no more than 52 characters"]
    return dns_subdomain(text)


def address_name(text: str) -> list[str]:
    """IPAddress objects are named after the address they stand for, canonically spelt."""
    try:
        spelt = str(ip_address(text))
    except ValueError:
        return [NOT_AN_IP]
    return [] if spelt == text else ["must be a canonical format IP address"]


def domain_path(text: str) -> list[str]:
    """`acme.io/foo`: signers, controllers of IngressClasses, managers of Jobs."""
    domain, slash, rest = text.partition("/")
    if not slash or not domain or not rest:
        return ['must be a domain-prefixed path (such as "acme.io/foo")']
    found = list(dns_subdomain(domain))
    if not _DOMAIN_PATH.fullmatch(rest):
        found.append("Invalid path")
    return found


def fully_qualified(text: str) -> list[str]:
    """A domain of at least two labels (three where `names.fully_qualified_name` is meant)."""
    found = list(dns_subdomain(text))
    return found or ([] if "." in text else ["should be a domain with at least two segments separated by dots"])


def fully_qualified_name(text: str) -> list[str]:
    found = list(dns_subdomain(text))
    if found:
        return found
    return [] if text.count(".") >= 2 else ["should be a domain with at least three segments separated by dots"]


def c_identifier(text: str) -> list[str]:
    if _IDENTIFIER.fullmatch(text):
        return []
    detail = (
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
        "characters or '_'"
    )
    return [_regex(detail, _IDENTIFIER.pattern, "my_name", "MY_NAME", "MyName")]
