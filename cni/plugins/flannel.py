"""flannel: what the overlay's subnet.env says, turned into a configuration of another plugin (``delegate``, bridge by default).

What was asked of the delegate is kept in ``dataDir`` until the delegate's DEL succeeded, because subnet.env may say something
else by then, or be gone. flannel's own plugin names that file by the container alone: two interfaces of one container collide,
and it is removed even when the delegate's DEL failed. Here ``<container>`` is eth0's and ``<container>:<interface>`` any other's,
so that flannel's plugin and this one can follow each other.

| key        | default                 | meaning                                                                    |
|------------|-------------------------|----------------------------------------------------------------------------|
| subnetFile | /run/flannel/subnet.env | where the overlay says this node's ranges, MTU, and whether it masquerades |
| dataDir    | /var/lib/cni/flannel    | where what was asked of delegates is kept                                  |
| delegate   | {}                      | the delegate's own keys; type, ipMasq, mtu and isGateway where it says them |
| ipam       | {}                      | the delegate's ipam; its ranges are set here, its routes added to           |
"""

from __future__ import annotations

import errno
import os

from cni import delegate
from cni.codec import decode, encode
from cni.config import SUBNET_FILE, invalid, mapping, path, text
from cni.model import SubnetEnv
from cni.plugins.wherry import read_subnet_file
from cni.spec import (
    INVALID_CONFIGURATION,
    NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CniError,
    previous_result,
    valid_attachments,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.call import Call
    from cni.codec import Json
    from cni.spec import Result

DATA_DIR = "/var/lib/cni/flannel"
_DRAFT = ".new"
_FIRST = "eth0"
_NOTHING = SubnetEnv(
    (), (), 0, None
)  # subnet.env of an overlay that says nothing: then we masquerade, and may have before
_WHOSE = "cni.dev/ifname"  # in a kept file: the interface; flannel's own plugin does not say


def add(call: Call, config: Mapping[str, Json]) -> Result:
    asked = rendered(config)
    _keep(_file(call, config), {**asked, _WHOSE: call.ifname})
    return delegate.add(_type(asked), call, asked)


def delete(call: Call, config: Mapping[str, Json]) -> None:
    """Nothing kept, nothing to do: an ADD keeps before it asks."""
    name, kept = _kept(call, config)
    if kept is None:
        return
    if config.get("prevResult") is not None:
        kept = {**kept, "prevResult": config["prevResult"]}
    delegate.delete(_type(kept), call, kept)
    _remove(name)


def check(call: Call, config: Mapping[str, Json]) -> None:
    if previous_result(config) is None:
        raise CniError(INVALID_CONFIGURATION, "CHECK needs prevResult, the result of the ADD")
    name, kept = _kept(call, config)
    if kept is None:
        raise CniError(INVALID_CONFIGURATION, f"{name} is missing: what the ADD asked of its delegate is not known")
    asked = {**kept, "cniVersion": config["cniVersion"], "prevResult": config["prevResult"]}
    delegate.check(_type(asked), call, asked)


def status(call: Call, config: Mapping[str, Json]) -> None:
    try:
        asked = rendered(config)
    except CniError as error:
        if error.code == TRY_AGAIN_LATER:
            raise CniError(NOT_AVAILABLE, error.message) from None
        raise
    delegate.status(_type(asked), call, asked)


def gc(call: Call, config: Mapping[str, Json]) -> None:
    """The delegate's garbage, then the kept files of what is attached no more. What subnet.env says is no matter: it may be gone,
    and what is kept from before is garbage all the same."""
    valid = valid_attachments(config)
    passed_on = {key: value for key, value in config.items() if key.startswith("cni.dev/")}
    asked = {**rendered(config, _NOTHING), **passed_on}
    delegate.gc(_type(asked), call, asked)
    folder = path(config, "dataDir", DATA_DIR)
    keep = {_name(container, ifname) for container, ifname in valid} | {container for container, _ in valid}
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        if name.removesuffix(_DRAFT) in keep:
            continue
        kept = _read(f"{folder}/{name}") or {}
        if (
            name.endswith(_DRAFT) or kept.get("name") == config["name"]
        ):  # what is another's, or nobody knows whose, stays
            _remove(f"{folder}/{name}")


def rendered(config: Mapping[str, Json], env: SubnetEnv | None = None) -> dict[str, Json]:
    """What the delegate is asked."""
    env = env or read_subnet_file(path(config, "subnetFile", SUBNET_FILE))
    asked = dict(mapping(config, "delegate"))
    for key in ("name", "ipam"):
        if key in asked:
            raise invalid(f"delegate.{key}", asked[key], "must not be there: flannel sets it; remove it")
    kind = text(asked, "type", "bridge")
    asked |= {"name": config["name"], "type": kind, "cniVersion": config["cniVersion"]}
    # Where the overlay does not masquerade, we must; where it does not say, it is an overlay that does nothing of the kind.
    asked.setdefault("ipMasq", not env.masquerades)
    if env.mtu:
        asked.setdefault("mtu", env.mtu)
    if kind == "bridge":
        asked.setdefault("isGateway", True)
    for key in ("runtimeConfig", "args"):
        if config.get(key) is not None:
            asked[key] = config[key]
    ipam = dict(mapping(config, "ipam"))
    routes = ipam.get("routes") or []
    if not isinstance(routes, list):
        raise invalid("ipam.routes", routes, "must be a list")
    ipam.setdefault("type", "host-local")
    ipam["ranges"] = [[{"subnet": str(each)}] for each in env.subnets]
    ipam["routes"] = [*routes, *({"dst": str(each)} for each in env.networks)]
    asked["ipam"] = ipam
    return asked


def _type(asked: Mapping[str, Json]) -> str:
    return text(asked, "type", "bridge")


def _name(container: str, ifname: str) -> str:
    return container if ifname == _FIRST else f"{container}:{ifname}"


def _file(call: Call, config: Mapping[str, Json]) -> str:
    return f"{path(config, 'dataDir', DATA_DIR)}/{_name(call.container, call.ifname)}"


def _kept(call: Call, config: Mapping[str, Json]) -> tuple[str, dict[str, Json] | None]:
    """(the file, what the attachment's delegate was asked); None when nothing is known of it."""
    name = _file(call, config)
    kept = _read(name)
    if kept is None and call.ifname != _FIRST:
        # flannel's own plugin may have kept it under the container's name. What says another interface is another's.
        early = f"{path(config, 'dataDir', DATA_DIR)}/{call.container}"
        kept = _read(early)
        if kept is not None and kept.get(_WHOSE, call.ifname) == call.ifname:
            return early, kept
        return name, None
    return name, kept


def _read(name: str) -> dict[str, Json] | None:
    """None for what is not there, and for what flannel's own plugin left half written: it asked nobody yet."""
    try:
        with open(name, "rb") as file:
            found = decode(file.read())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _keep(name: str, asked: Mapping[str, Json]) -> None:
    folder = os.path.dirname(name)
    os.makedirs(folder, 0o700, exist_ok=True)
    draft, content = f"{name}{_DRAFT}", encode(asked).encode()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), draft)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(draft, name)
    except BaseException:
        _remove(draft)
        raise
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(name: str) -> None:
    try:
        os.unlink(name)
    except FileNotFoundError:
        return
