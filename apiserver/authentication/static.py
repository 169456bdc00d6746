"""Static tokens (--token-auth-file): lines of `token,user,uid,"group1,group2"`; the groups may be missing."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path

from apiserver.authentication.user import AUTHENTICATED, User
from kube.errors import UsageError

log = logging.getLogger(__name__)
FLAG = "--token-auth-file"


def tokens(path: str) -> Mapping[str, User]:
    """Raises UsageError naming the line."""
    found: dict[str, User] = {}
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1):
                if not row or row[0].startswith("#"):
                    continue
                if len(row) < 3 or not row[0] or not row[1]:
                    raise UsageError(f'{FLAG} {path}: line {number}: write it as token,user,uid,"group1,group2"')
                if row[0] in found:
                    log.warning(
                        "%s %s: line %d: the token of an earlier line again; this one counts", FLAG, path, number
                    )
                groups = tuple(one.strip() for one in row[3].split(",") if one.strip()) if len(row) > 3 else ()
                found[row[0]] = User(row[1], (*groups, AUTHENTICATED), row[2])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{FLAG} {path}: {why}; name a readable CSV file") from error
    return found
