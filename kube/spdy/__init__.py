"""SPDY/3.1, as far as Kubernetes speaks it: exec, attach and port-forward of kubectl before 1.30, and towards stock kubelets.

`frames` turns bytes into values and back, `session` carries streams over any wire of bytes.
"""

from kube.spdy.frames import Headers, MalformedFrame
from kube.spdy.session import Session, Stream, StreamRefused, Wire

UPGRADE = "SPDY/3.1"

__all__ = ["UPGRADE", "Headers", "MalformedFrame", "Session", "Stream", "StreamRefused", "Wire"]
