"""Audit as the flags ask for it: --audit-policy-file and --audit-log-path together, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from apiserver.audit import log, policy
from apiserver.audit.events import Audit
from apiserver.config import Config
from kube.errors import UsageError


@contextmanager
def opening(config: Config) -> Iterator[Audit | None]:
    """None when it is off. Raises UsageError."""
    if not config.audit_log_path:
        if config.audit_policy_file:
            raise UsageError("--audit-policy-file needs --audit-log-path: name the file that events go to, or -")
        yield None
        return
    if not config.audit_policy_file:
        raise UsageError("--audit-log-path needs --audit-policy-file: name the rules that say what is written")
    for flag in ("audit_log_maxage", "audit_log_maxbackup", "audit_log_maxsize"):
        if getattr(config, flag) < 0:
            raise UsageError(f"--{flag.replace('_', '-')}: must not be negative")
    rules = policy.load(config.audit_policy_file)
    rotation = log.Rotation(config.audit_log_maxsize, config.audit_log_maxbackup, config.audit_log_maxage)
    with log.writing(config.audit_log_path, rotation) as lines:
        yield Audit(rules, lines)
