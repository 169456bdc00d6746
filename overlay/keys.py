"""WireGuard's private key: made once, kept in a file that only root reads, the same over restarts.

Where flannel keeps it (/run/flannel/wgkey, or what WIREGUARD_KEY_FILE names), so that either can take the other's place
without telling the peers of a new key.
"""

import os
from pathlib import Path

from kube.errors import Retry
from linux import wireguard

DEFAULT = "/run/flannel/wgkey"


def file(subnet_file: str) -> Path:
    """Beside a subnet.env that is not in its usual place: a lab's nodes share /run."""
    named = os.environ.get("WIREGUARD_KEY_FILE", "")
    return Path(named) if named else Path(subnet_file).with_name(Path(DEFAULT).name)


def private(path: Path) -> str:
    """The key in the file, in base64; a fresh one when there is none. Raises Retry."""
    try:
        found = path.read_text().strip()
    except FileNotFoundError:
        return _fresh(path)
    except (OSError, UnicodeDecodeError) as error:
        raise Retry(f"cannot read the WireGuard key {path}: {error}") from error
    try:
        wireguard.public_key(found)
    except ValueError as error:
        raise Retry(f"{path} holds no WireGuard key ({error}): delete it, and a fresh one is made") from error
    os.chmod(path, 0o600)
    return found


def _fresh(path: Path) -> str:
    key = wireguard.fresh_key()
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        raise Retry(f"cannot keep the WireGuard key in {path}: {error.strerror}") from error
    return key


def remove(path: Path) -> bool:
    """Whether there was one."""
    path.with_name(f".{path.name}.new").unlink(missing_ok=True)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
