"""flannel's ways of saying things: Go's flags, and the environment.

Go's flag package takes one dash or two (`-iface`, `--iface`) and true as `t`, `T` or `1`. Each flag can also be given as a
variable FLANNELD_<NAME>, in capitals and with underscores; the command line wins over it, and it wins over --config.
An empty variable says nothing, as flannel has it: environment files have such lines.
A variable of that shape that names no flag is none of ours: Kubernetes itself puts FLANNELD_SERVICE_HOST and its like into
the environment of every Pod beside a Service `flanneld`.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from kube.errors import UsageError

ENVIRONMENT = "FLANNELD_"
_SINGLE = re.compile(r"^-([a-zA-Z][\w-]+)(=.*)?$", re.DOTALL)
_TRUTH = {"t": "true", "T": "true", "f": "false", "F": "false"}

SAME = {"--kubeconfig-file": "--kubeconfig"}
"""flannel's names for flags that all our daemons have under another."""

LOGGING = {
    *("v", "vmodule", "logtostderr", "alsologtostderr", "log_dir", "log_file", "log_file_max_size", "log_backtrace_at"),
    *("skip_headers", "skip_log_headers", "one_output", "stderrthreshold", "add_dir_header", "legacy_stderr_threshold_behavior"),
}  # fmt: skip
"""klog's flags. They shape the log and nothing else, so they are taken and have no effect: WHERRY_LOG sets the level here."""
_LOGGING_TRUTHS = {
    *("logtostderr", "alsologtostderr", "skip_headers", "skip_log_headers", "one_output", "add_dir_header"),
    "legacy_stderr_threshold_behavior",
}

GONE = {
    "--charon-executable-path": "the ipsec backend and its charon are not built in; use the backend wireguard",
    "--charon-viciuri-path": "the ipsec backend and its charon are not built in; use the backend wireguard",
    "--listen": "flannel's client and server mode is gone, there and here; each node reads the registry itself",
    "--remote": "flannel's client and server mode is gone, there and here; each node reads the registry itself",
    "--remote-keyfile": "flannel's client and server mode is gone, there and here; each node reads the registry itself",
    "--remote-certfile": "flannel's client and server mode is gone, there and here; each node reads the registry itself",
    "--remote-cafile": "flannel's client and server mode is gone, there and here; each node reads the registry itself",
    "--networks": "several networks on one node are gone, there and here; give all pods one Network",
    "--watch-networks": "several networks on one node are gone, there and here; give all pods one Network",
}


def spelt(argv: Sequence[str], truths: Collection[str]) -> list[str]:
    """`argv` with two dashes and our names; `truths` are the flags that are true or false. Raises UsageError."""
    found: list[str] = []
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            return [*found, arg, *rest]
        if single := _SINGLE.match(arg):
            arg = f"--{single[1]}{single[2] or ''}"
        flag, sign, value = arg.partition("=")
        name = flag.removeprefix("--")
        if flag in ("-v", "--v") or (flag.startswith("--") and name in LOGGING):
            if not sign and name not in _LOGGING_TRUTHS and rest and not rest[0].startswith("-"):
                rest.pop(0)
            continue
        if flag in GONE:
            raise UsageError(f"{flag}: {GONE[flag]}; remove it")
        flag = SAME.get(flag, flag)
        if sign and flag in truths:
            value = _TRUTH.get(value, value)
        found.append(f"{flag}{sign}{value}")
    return found


def from_environment(environment: Mapping[str, str], flags: Collection[str], given: Sequence[str]) -> Iterator[str]:
    """What the environment says of those `flags` that are not given."""
    there = {arg.partition("=")[0] for arg in given}
    for flag in (*sorted(flags), *SAME):
        name = ENVIRONMENT + flag.removeprefix("--").replace("-", "_").upper()
        if environment.get(name) and SAME.get(flag, flag) not in there:
            yield f"{flag}={environment[name]}"
