"""deploy/grafana: the files are what tools/dashboards writes, and hold together. Their queries run in tests/cluster."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "deploy" / "grafana").glob("*.json"))


def test_files_are_what_the_program_writes() -> None:
    argv = [sys.executable, str(ROOT / "tools" / "dashboards"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_there_is_one_for_each_subject() -> None:
    assert [file.stem for file in FILES] == ["api", "kubelet", "node", "overlay", "pod", "proxy"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_variables_and_data_sources(file: Path) -> None:
    """Every data source is the one that the user chooses; every variable in a query is the dashboard's own or Grafana's."""
    board: dict[str, Any] = json.loads(file.read_text())
    known = {one["name"] for one in board["templating"]["list"]} | {"__rate_interval"}
    assert board["uid"] == f"wherry-{file.stem}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        assert panel["targets"], panel["title"]
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= known
    for one in board["templating"]["list"][1:]:
        assert set(re.findall(r"\$(\w+)", one["query"]["query"])) < known
