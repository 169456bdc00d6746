import pytest

from kube.core import Taint
from kube.pods import Toleration
from kube.taints import tolerated, tolerates

TAINT = Taint(key="a", value="b", effect="NoExecute")


@pytest.mark.parametrize(
    ("toleration", "wanted"),
    [
        (Toleration(key="a", value="b", effect="NoExecute"), True),
        (Toleration(key="a", value="b"), True),
        (Toleration(key="a", value="c"), False),
        (Toleration(key="a", operator="Exists"), True),
        (Toleration(key="x", operator="Exists"), False),
        (Toleration(operator="Exists"), True),
        (Toleration(operator="Exists", effect="NoSchedule"), False),
        (Toleration(), False),
        (Toleration(key="a", operator="Lt", value="b"), False),
    ],
)
def test_tolerates(toleration: Toleration, wanted: bool) -> None:
    assert tolerates(toleration, TAINT) is wanted
    assert tolerated(TAINT, (Toleration(key="other", operator="Exists"), toleration)) is wanted
