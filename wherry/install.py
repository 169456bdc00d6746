"""`wherry install` and `wherry uninstall`: units, configuration and certificates on a host, and off it again.

Installing again keeps what is there: a certificate stays valid, an edited configuration stays edited; units are written
anew, because they belong to the version that is installed. Nothing is started: the last line says how.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from cni.launcher import conflist, write_plugins
from kube import certificates, trust
from kube.errors import UsageError
from wherry import layout
from wherry.layout import AGENT_UNITS, CENTRE_UNITS, CONFLIST, ETC, PLUGINS, UNITS, File

_SHIPPED = (Path(__file__).resolve().parent.parent / "systemd", Path(sys.prefix, "share", "wherry", "systemd"))


def install(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(list(argv))
    root = Path(arguments.root)
    if not os.access(root, os.W_OK):
        raise UsageError(f"--root {root}: cannot write there; run as root (sudo) or name another directory")
    if arguments.role == "server":
        nodes = dict(_node(text) for text in arguments.node)
        server = layout.Server(_address("--address", arguments.address), nodes)
        written = _lay(root, layout.server_files(server, _authority(root)))
        _units(root, CENTRE_UNITS, {})
        print(f"server installed: {written} files written below {root}")
        for name in nodes:
            print(
                f"  for {name}: carry /{ETC}/bundles/{name}.tar there, then: wherry install agent --bundle {name}.tar"
            )
    else:
        bundle = layout.read_bundle(_read(arguments.bundle))
        written = _lay(root, layout.agent_files(bundle, conflist()))
        write_plugins(root / PLUGINS)
        _units(root, AGENT_UNITS, layout.unit_arguments(bundle))
        print(f"agent installed: {written} files written below {root}")
    print("start it: systemctl daemon-reload && systemctl enable --now wherry.target " + " ".join(_installed(root)))
    return 0


def uninstall(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="wherry uninstall", description="Remove what wherry install laid out.")
    parser.add_argument("--root", default="/", help="the root it was installed below (default: /)")
    parser.add_argument("--purge", action="store_true", help="also remove the cluster's data: /var/lib/wherry")
    arguments = parser.parse_args(list(argv))
    root = Path(arguments.root)
    live = root == Path("/")
    if live:
        _stop(_installed(root))
    for unit in [*CENTRE_UNITS, *AGENT_UNITS]:
        (root / UNITS / f"{unit}.service").unlink(missing_ok=True)
    for path in (f"{UNITS}/wherry.target", CONFLIST, f"{PLUGINS}/wherry-cni"):
        (root / path).unlink(missing_ok=True)
    shutil.rmtree(root / ETC, ignore_errors=True)
    if arguments.purge:
        shutil.rmtree(root / "var/lib/wherry", ignore_errors=True)
    for folder in (PLUGINS, "opt/wherry/cni", "etc/cni/net.d", "etc/cni"):
        if (root / folder).is_dir() and not any((root / folder).iterdir()):
            (root / folder).rmdir()
    print(f"uninstalled from {root}")
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
    agent = roles.add_parser("agent", help="a node: kubelet, proxy, overlay, metrics")
    agent.add_argument("--bundle", required=True, metavar="FILE", help="the node's bundle, from the server")
    return parser


def _address(where: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise UsageError(f"{where}: {text!r} is not an IPv4 address") from error


def _node(text: str) -> tuple[str, IPv4Address]:
    name, sign, address = text.partition("=")
    if not sign or not name:
        raise UsageError(f"--node {text}: write it as NAME=ADDRESS")
    return name, _address(f"--node {name}", address)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"--bundle {path}: {error.strerror}") from error


def _authority(root: Path) -> certificates.KeyPair:
    """The cluster's CA: the one that is there, or a new one."""
    folder = root / ETC / "pki"
    if not (folder / "ca.key").exists():
        trust.write_pair(folder, "ca", certificates.authority("wherry-ca"))
    return trust.read_pair(folder, "ca")


def _lay(root: Path, files: Mapping[str, File]) -> int:
    """Write what is missing; how many files that were. A key and its certificate are written together or not at all."""
    missing = {path for path in files if not (root / path).exists()}
    for path in [p for p in missing if p.endswith((".crt", ".key")) and not p.endswith("ca.crt")]:
        stem = path.rpartition(".")[0]
        missing |= {f"{stem}.crt", f"{stem}.key"} & files.keys()
    for path in missing:
        trust.write(root / path, files[path].content, files[path].mode)
    return len(missing)


def _units(root: Path, names: Sequence[str], arguments: Mapping[str, str]) -> None:
    shipped = next((folder for folder in _SHIPPED if folder.is_dir()), None)
    if shipped is None:
        raise UsageError("this installation has no unit files; install Wherry again")
    programs = Path(sys.prefix, "bin")
    for name in names:
        text = (shipped / f"{name}.service").read_text().replace("/opt/wherry/bin", str(programs))
        lines = [
            line + arguments.get(name, "") if line.startswith("ExecStart=") else line for line in text.splitlines()
        ]
        trust.write(root / UNITS / f"{name}.service", ("\n".join(lines) + "\n").encode(), 0o644)
    trust.write(root / UNITS / "wherry.target", (shipped / "wherry.target").read_bytes(), 0o644)


def _installed(root: Path) -> list[str]:
    return [f"{unit}.service" for unit in (*CENTRE_UNITS, *AGENT_UNITS) if (root / UNITS / f"{unit}.service").exists()]


def _stop(units: Sequence[str]) -> None:
    """Stop the units and take their rules and links out of the kernel; a host without systemd has none to stop."""
    if shutil.which("systemctl") and os.path.isdir("/run/systemd/system") and units:
        subprocess.run(["systemctl", "disable", "--now", *units, "wherry.target"], check=False)
    programs = Path(sys.prefix, "bin")
    if "wherry-proxy.service" in units:
        subprocess.run([programs / "wherry-proxy", "--cleanup"], check=False)
    if "wherry-overlay.service" in units:
        subprocess.run([programs / "wherry-overlay", "--cleanup"], check=False)
