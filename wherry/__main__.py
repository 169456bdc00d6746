"""`wherry COMMAND ...`: one door to everything that is not a daemon of its own."""

import sys
from collections.abc import Callable, Sequence

from kube.errors import UsageError

_USAGE = """\
usage: wherry COMMAND ...

  lab         a whole cluster in network namespaces on this machine: up, status, shell, kubectl, stop, start, down
  server      the centre (API, scheduler, controllers) in one process
  agent       a node's four daemons (kubelet, proxy, overlay, metrics) in one process
  proxy       what the service proxy's rules do on this node: show, trace
  overlay     what the overlay has made on this node, and what of it is not as wanted: show
  store       the API server's store: snapshot, restore, ls, get
  install     lay out units, configuration and certificates on a host
  uninstall   remove them
  version     which Wherry, and which Kubernetes it speaks

`wherry COMMAND --help` says more; each daemon also is a command of its own: wherry-apiserver, wherry-scheduler,
wherry-controllers, wherry-kubelet, wherry-proxy, wherry-overlay, wherry-metrics, wherry-cni-agent.
"""


def _lab(argv: Sequence[str]) -> int:
    from lab.commands import main as lab

    return lab(argv)


def _version(_argv: Sequence[str]) -> int:
    from kube.version import GIT_VERSION, WHERRY

    print(f"wherry {WHERRY} (speaks Kubernetes {GIT_VERSION})")
    return 0


def _unknown(_argv: Sequence[str]) -> int:
    raise UsageError(f"unknown command; there are {', '.join(_COMMANDS)}")


def _server(argv: Sequence[str]) -> int:
    from wherry.together import server

    return server(argv)


def _agent(argv: Sequence[str]) -> int:
    from wherry.together import agent

    return agent(argv)


def _store(argv: Sequence[str]) -> int:
    from apiserver.commands import store

    return store(argv)


def _proxy(argv: Sequence[str]) -> int:
    from proxy.commands import main as proxy

    return proxy(argv)


def _overlay(argv: Sequence[str]) -> int:
    from overlay.commands import main as overlay

    return overlay(argv)


def _install(argv: Sequence[str]) -> int:
    from wherry.install import install

    return install(argv)


def _uninstall(argv: Sequence[str]) -> int:
    from wherry.install import uninstall

    return uninstall(argv)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "lab": _lab,
    "server": _server,
    "agent": _agent,
    "proxy": _proxy,
    "overlay": _overlay,
    "store": _store,
    "install": _install,
    "uninstall": _uninstall,
    "version": _version,
}


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0 if words else 2
    try:
        return _COMMANDS.get(words[0], _unknown)(words[1:])
    except UsageError as error:
        print(f"wherry {words[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
