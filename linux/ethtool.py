"""What a device leaves to its hardware: here only the checksums of what it sends.

The old ethtool ioctl, which every kernel has and every device understands that has the feature at all. Asked of the network
namespace of the calling thread. (include/uapi/linux/ethtool.h)
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct

_SIOCETHTOOL = 0x8946
_GET, _SET = 0x16, 0x17  # ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM
_VALUE = struct.Struct("=II")  # struct ethtool_value: command, data
_REQUEST = struct.Struct("@16sP8x")  # struct ifreq: name, pointer


def tx_checksum(device: str) -> bool:
    """Whether packets leave the device with checksums that are still to be computed. Raises OSError."""
    return bool(_asked(device, _GET, 0))


def set_tx_checksum(device: str, on: bool) -> None:
    """Off: the kernel computes them before it hands a packet over, and segments TCP itself. Raises OSError: EOPNOTSUPP where
    the device has no such switch."""
    _asked(device, _SET, int(on))


def _asked(device: str, command: int, data: int) -> int:
    name = device.encode()
    if len(name) > 15:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device)
    value = ctypes.create_string_buffer(_VALUE.pack(command, data), _VALUE.size)
    request = _REQUEST.pack(name, ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        try:
            fcntl.ioctl(asked, _SIOCETHTOOL, request)
        except OSError as error:
            raise OSError(error.errno, f"transmit checksumming: {error.strerror}", device) from error
    answer: int = _VALUE.unpack(value.raw)[1]
    return answer
