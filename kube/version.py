"""Which Kubernetes we speak, and which Wherry says so.

`GIT_VERSION` is strict semver because clients parse it: `kubectl version`, CoreDNS (digits of `MAJOR` and `MINOR`).
"""

MAJOR = "1"
MINOR = "36"
WHERRY = "0.1.0"
GIT_VERSION = f"v{MAJOR}.{MINOR}.0+wherry.{WHERRY}"
