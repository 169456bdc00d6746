"""BackendData: what a node says of its device, as flannel writes it into an annotation of its Node or its lease in etcd.

    vxlan       {"VNI":1,"VtepMAC":"8e:1b:10:4f:22:4d"}
    wireguard   {"PublicKey":"<base64 of 32 bytes>"}
    host-gw     null, or nothing at all

Pure.
"""

import binascii
import re
from typing import assert_never

import msgspec

from overlay.documents import decoded
from overlay.model import Backend, PublicKey, Vtep
from overlay.subnets import Data

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class UnreadableData(ValueError):
    """No device can be read from this; the message says what is wrong with it."""


class _Vxlan(msgspec.Struct, frozen=True):
    vni: int = msgspec.field(default=0, name="VNI")
    mac: str = msgspec.field(default="", name="VtepMAC")


class _WireGuard(msgspec.Struct, frozen=True):
    key: str = msgspec.field(default="", name="PublicKey")


def backend(text: str) -> Backend:
    """The backend of this name. Raises UnreadableData."""
    try:
        return Backend(text)
    except ValueError as error:
        known = ", ".join(Backend)
        raise UnreadableData(f"{text!r} is a backend that is not spoken here ({known} are)") from error


def parsed(kind: Backend, text: str | bytes) -> Data:
    """Raises UnreadableData."""
    try:
        match kind:
            case Backend.VXLAN:
                found = decoded(text, _Vxlan)
                mac = found.mac.lower()
                if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or not mac.strip("0:"):
                    raise UnreadableData(f"VtepMAC {found.mac!r} is not the MAC address of one device")
                return Vtep(found.vni, mac)
            case Backend.WIREGUARD:
                key = decoded(text, _WireGuard).key
                if len(binascii.a2b_base64(key.encode(), strict_mode=True)) != 32:
                    raise UnreadableData(f"PublicKey {key!r} is not 32 bytes in base64")
                return PublicKey(key)
            case Backend.HOST_GW:
                return None
            case _:
                assert_never(kind)
    except binascii.Error as error:
        raise UnreadableData(f"PublicKey: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableData(str(error)) from error


def rendered(data: Data) -> str:
    """Byte for byte as flannel writes it."""
    match data:
        case Vtep(vni, mac):
            return f'{{"VNI":{vni},"VtepMAC":"{mac}"}}'
        case PublicKey(key):
            return f'{{"PublicKey":"{key}"}}'
        case None:
            return "null"
        case _:
            assert_never(data)
