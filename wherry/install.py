"""`wherry install` and `wherry uninstall`: units, configuration and certificates on a host, and off it again.

Everything is read, checked and made before the first file is written. Installing again keeps what is there: a certificate
stays valid, an edited configuration stays edited; units are written anew, because they belong to the version that is
installed. What would contradict what is there (another address, another node, another cluster) is refused. Nothing is
started: the last line says how.
"""

import argparse
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from cni.launcher import ALONE, conflist, is_compiled, write_plugins
from cni.plugins import NAMES
from kube import certificates, trust
from kube.errors import UsageError
from wherry import layout
from wherry.layout import AGENT_UNITS, CENTRE_UNITS, CONFLIST, ETC, PLUGINS, UNITS, About, File

_SOURCE = Path(__file__).resolve().parent.parent
_SHIPPED = (_SOURCE / "systemd", Path(sys.prefix, "share", "wherry", "systemd"))
_TARGET = "wherry.target"
_FOLDERS = (
    *(PLUGINS, "opt/wherry/cni", "opt/wherry", "etc/cni/net.d", "etc/cni"),
    *("run/wherry/cni/journal", "run/wherry/cni", "run/wherry"),
)
_CONTAINERD_WORDS = f"""\
containerd looks for network plugins in one directory: let its /etc/containerd/config.toml say
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/{PLUGINS}"
and that an image for sandboxes is there (sandbox_image), then: systemctl restart containerd"""
_SLOW_WORDS = """\
the CNI plugins are Python programs, because there is no C compiler: each call takes some 8 ms more
(apt-get install gcc libc6-dev, then install again)"""
_STAGED = (UNITS, "etc/systemd", "etc", "opt", "var/lib", "var")
"""Those that every live host has and keeps; below a staging root they go when they are empty."""


def install(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(list(argv))
    root = _root(arguments.root)
    try:
        if arguments.role == "server":
            return _server(root, arguments.address, arguments.node)
        return _agent(root, arguments.bundle, arguments.runtime)
    except OSError as error:
        raise UsageError(
            f"--root {root}: {error.filename or ''}: {error.strerror}; run as root (sudo) or name another directory"
        ) from error


def _server(root: Path, address: str, nodes: Sequence[str]) -> int:
    server = layout.Server(_address("--address", address), _nodes(nodes))
    _same_address(root, server.address)
    units = _units(CENTRE_UNITS, {})
    folder = root / ETC / "pki"
    new = not (folder / "ca.key").exists()
    ca = certificates.authority("wherry-ca") if new else trust.read_pair(folder, "ca")
    files = layout.server_files(server, ca)
    if new:
        trust.write_pair(folder, "ca", ca)
    written = _lay(root, files)
    _write_units(root, units)
    print(f"server installed: {written} files written below {root}")
    for name in server.nodes:
        print(f"  for {name}: carry /{ETC}/bundles/{name}.tar there, then: wherry install agent --bundle {name}.tar")
    print(_start_words(CENTRE_UNITS))
    return 0


def _agent(root: Path, path: str, runtime: str) -> int:
    bundle = layout.read_bundle(_read(path))
    node = layout.about(bundle)
    _same_node(root, node, bundle["pki/ca.crt"])
    runtime = _same_runtime(root, runtime)
    units = _units(AGENT_UNITS, {"wherry-kubelet": node.kubelet_flags})
    files = layout.agent_files(bundle, conflist(agent=True), runtime)
    try:
        program = write_plugins(root / PLUGINS)
    except ValueError as error:
        raise UsageError(f"{error}; install Wherry into a virtual environment such as /opt/wherry") from error
    written = _lay(root, files)
    _write_units(root, units)
    print(f"agent installed: {written} files written below {root}")
    if not is_compiled(program):
        print(_SLOW_WORDS)
    if runtime == "containerd":
        print(_CONTAINERD_WORDS)
    print(_start_words(AGENT_UNITS))
    return 0


def uninstall(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="wherry uninstall", description="Remove what wherry install laid out.")
    parser.add_argument("--root", default="/", help="the root it was installed below (default: /)")
    parser.add_argument("--purge", action="store_true", help="also remove the cluster's data: /var/lib/wherry")
    arguments = parser.parse_args(list(argv))
    root = _root(arguments.root)
    live = root == Path("/")
    found = _installed(root)
    if live:
        _stop(found)
    for unit in found:
        (root / UNITS / unit).unlink()
    plugins = [f"{PLUGINS}/{name}" for name in (*NAMES, ALONE)]
    for path in (f"{UNITS}/{_TARGET}", CONFLIST, *plugins):
        (root / path).unlink(missing_ok=True)
    for path in (ETC, *(["var/lib/wherry"] if arguments.purge else [])):
        if (root / path).is_dir():
            shutil.rmtree(root / path)
    for folder in (*_FOLDERS, *(() if live else _STAGED)):
        _prune(root / folder)
    if live:
        _systemctl("daemon-reload")
    print(f"uninstalled from {root}" if found else f"there was nothing installed below {root}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wherry install", description="Lay out units, configuration and certificates."
    )
    parser.add_argument("--root", default="/", help="lay everything out below this directory (default: /)")
    roles = parser.add_subparsers(dest="role", required=True, metavar="ROLE")
    server = roles.add_parser("server", help="the centre: API, scheduler, controllers")
    server.add_argument("--address", required=True, help="the address at which nodes and people reach the API")
    server.add_argument(
        "--node", action="append", default=[], metavar="NAME=ADDRESS", help="prepare a bundle for this node"
    )
    agent = roles.add_parser("agent", help="a node: kubelet, proxy, overlay, metrics, and the CNI plugins' agent")
    agent.add_argument("--bundle", required=True, metavar="FILE", help="the node's bundle, from the server")
    agent.add_argument(
        "--runtime", choices=("docker", "containerd"), default="", help="what runs the pods (default: docker)"
    )
    return parser


def _root(text: str) -> Path:
    root = Path(text).absolute()
    if not root.is_dir():
        raise UsageError(f"--root {text}: there is no such directory; make it first")
    if not os.access(root, os.W_OK):
        raise UsageError(f"--root {text}: cannot write there; run as root (sudo) or name another directory")
    return root


def _address(where: str, text: str) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except ValueError as error:
        raise UsageError(f"{where}: {text!r} is not an IPv4 address") from error
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise UsageError(f"{where}: {address} is not an address that other hosts reach; give this one's")
    return address


def _nodes(texts: Sequence[str]) -> dict[str, IPv4Address]:
    found: dict[str, IPv4Address] = {}
    for text in texts:
        name, sign, address = text.partition("=")
        if not sign:
            raise UsageError(f"--node {text}: write it as NAME=ADDRESS")
        try:
            layout.node_name(name)
        except ValueError as error:
            raise UsageError(f"--node {text}: {error}") from error
        if name in found:
            raise UsageError(f"--node {text}: {name} is named twice; each node has one address")
        found[name] = _address(f"--node {name}", address)
    return found


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--bundle {path}: {error.strerror}; name the file that the server wrote") from error


def _same_address(root: Path, address: IPv4Address) -> None:
    """Certificates and kubeconfigs name the server's address: another one would reach nobody."""
    path = root / ETC / "apiserver.yaml"
    if not path.exists():
        return
    try:
        there = yaml.safe_load(path.read_bytes()).get("advertiseAddress")
    except (yaml.YAMLError, AttributeError) as error:
        raise UsageError(f"{path}: not a configuration file; mend it, or wherry uninstall first") from error
    if there and there != str(address):
        raise UsageError(f"--address {address}: this server is installed with {there}; wherry uninstall first")


def _same_node(root: Path, node: About, ca: File) -> None:
    """What is there is kept, so a bundle that contradicts it would do half of what it says."""
    path = root / ETC / "node.json"
    if path.exists() and path.read_bytes() != node.render():
        raise UsageError(f"--bundle: it is {node.node}'s, and {path} says otherwise; wherry uninstall first")
    authority = root / ETC / "pki" / "ca.crt"
    if authority.exists() and authority.read_bytes() != ca.content:
        raise UsageError(f"--bundle: it comes from another cluster than {authority}; wherry uninstall first")


def _same_runtime(root: Path, asked: str) -> str:
    """docker or containerd: what is asked for, else what is installed. The kubelet's configuration is kept when it is there, so
    asking for another one is refused."""
    path = root / ETC / "kubelet.yaml"
    if not path.exists():
        return asked or "docker"
    try:
        endpoint = str(yaml.safe_load(path.read_bytes()).get("containerRuntimeEndpoint") or "docker://")
    except (yaml.YAMLError, AttributeError) as error:
        if not asked:
            return "docker"
        raise UsageError(f"{path}: not a configuration file; mend it, or wherry uninstall first") from error
    there = "docker" if endpoint.startswith("docker://") else "containerd"
    if asked not in ("", there):
        raise UsageError(
            f"--runtime {asked}: {path} says containerRuntimeEndpoint {endpoint}; change it there, or wherry uninstall first"
        )
    return there


def _lay(root: Path, files: Mapping[str, File]) -> int:
    """Write what is missing; how many files that were. A key and its certificate are written together or not at all."""
    missing = {path for path in files if not (root / path).exists()}
    for path in [p for p in missing if p.endswith((".crt", ".key")) and not p.endswith("ca.crt")]:
        stem = path.rpartition(".")[0]
        missing |= {f"{stem}.crt", f"{stem}.key"} & files.keys()
    for path in sorted(missing):
        trust.write(root / path, files[path].content, files[path].mode)
    return len(missing)


def _units(names: Sequence[str], flags: Mapping[str, str]) -> dict[str, str]:
    """Unit files by name, fitted to where this installation's programs are."""
    shipped = next((folder for folder in _SHIPPED if folder.is_dir()), None)
    if shipped is None:
        raise UsageError(f"this installation has no unit files (looked in {_SHIPPED[1]}); install Wherry again")
    programs = Path(sys.prefix, "bin")
    needed = (Path(os.path.realpath(sys.executable)), Path(sys.base_prefix), _SOURCE)
    for name in names:
        if not (programs / name).exists():
            raise UsageError(f"{programs / name} is missing; install Wherry again: {programs}/pip install CHECKOUT")
    units = {
        f"{name}.service": layout.fitted(
            (shipped / f"{name}.service").read_text(), programs, needed, flags.get(name, "")
        )
        for name in names
    }
    return {**units, _TARGET: (shipped / _TARGET).read_text()}


def _write_units(root: Path, units: Mapping[str, str]) -> None:
    for name, text in units.items():
        trust.write(root / UNITS / name, text.encode(), 0o644)


def _start_words(names: Sequence[str]) -> str:
    return "start it: systemctl daemon-reload && systemctl enable --now wherry.target " + " ".join(names)


def _installed(root: Path) -> list[str]:
    names = [f"{unit}.service" for unit in (*CENTRE_UNITS, *AGENT_UNITS)]
    return [name for name in names if (root / UNITS / name).exists()]


def _prune(folder: Path) -> None:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _systemctl(*words: str) -> None:
    """A host without systemd has nothing to tell it."""
    if shutil.which("systemctl") and os.path.isdir("/run/systemd/system"):
        subprocess.run(["systemctl", *words], check=False)


def _stop(units: Sequence[str]) -> None:
    """Stop the units, and take their rules and links out of the kernel."""
    if units:
        _systemctl("disable", "--now", *units, _TARGET)
    for name in ("wherry-proxy", "wherry-overlay"):
        if f"{name}.service" in units:
            done = subprocess.run([Path(sys.prefix, "bin", name), "--cleanup"], check=False)
            if done.returncode:
                raise UsageError(f"{name} --cleanup failed (above); nothing has been removed yet; mend it, then repeat")
