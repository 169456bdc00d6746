"""Which nftables layout is taken, asked of a kernel that has everything, with layouts that ask for more."""

import logging
from collections.abc import Callable

import pytest

from linux import netns as kernel_netns
from linux.iptables.backend import Unusable
from linux.iptables.rules import Family
from linux.nftables import expressions
from linux.nftables.batch import Batch
from linux.nftables.connection import Connection
from proxy.backend import Wish
from proxy.model import Policy
from proxy.nftables import kernel as table
from proxy.nftables import probe
from proxy.nftables.backend import NftablesBackend
from proxy.nftables.chains import Chain, Rule
from proxy.nftables.fallback import Fallback
from proxy.nftables.layout import TABLE, socket_family
from proxy.nftables.plan import Flat
from proxy.nftables.shadow import Seen, Shadow
from tests.conftest import Netns
from tests.requirements import requires

requires("root", "netns", "nsenter", "nft")


class Divining(Flat):
    """Wants an expression that no kernel has."""

    def fixed(self, policy: Policy) -> tuple[Chain, ...]:
        return (*super().fixed(policy), Chain("divination", (Rule((expressions.expression("divine"),)),)))


@pytest.fixture
def space(netns: Callable[[str], Netns]) -> Netns:
    return netns("probe")


def connected(space: Netns) -> Connection:
    with kernel_netns.enter(space.path):
        return Connection()


@pytest.mark.parametrize("family", Family)
def test_the_flat_layout_is_taken_and_leaves_no_trace(space: Netns, family: Family) -> None:
    with connected(space) as kernel:
        before = kernel.generation()
        assert isinstance(probe.chosen(kernel, family), Flat)
        assert probe.refusals(kernel, family, Fallback()) == ""
        assert kernel.generation() == before
    assert space.run("nft", "list", "ruleset") == ""


def test_what_the_kernel_lacks_leads_to_the_fallback_and_is_told(
    space: Netns, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(space) as kernel, caplog.at_level(logging.WARNING):
        assert isinstance(probe.chosen(kernel, Family.V4, (Divining(), Fallback())), Fallback)
        assert "add a rule to chain divination of table kube-proxy-rehearsal: No such file or directory" in caplog.text
        with pytest.raises(Unusable, match=r"lacks what Services need: .*divination.*; use mode: iptables"):
            probe.chosen(kernel, Family.V4, (Divining(),))


async def test_a_table_of_the_other_layout_is_replaced_at_once(space: Netns) -> None:
    services = {"rehearsal/every-kind": probe.every_kind(Family.V4)}
    wish = Wish(services, None, Policy(node_port_addresses=()))
    with connected(space) as kernel:
        seen: list[tuple[str | None, int]] = []
        for layout in (Flat(), Fallback(), Flat()):
            applied = await NftablesBackend(Family.V4, kernel, layout).apply(wish)
            assert applied.full
            (made,) = kernel.tables(socket_family(Family.V4))
            seen.append((made.comment, kernel.generation()))
            again = await NftablesBackend(Family.V4, kernel, layout).apply(wish)
            assert (again.written, again.deleted, again.repaired) == (0, 0, ())
        assert [comment for comment, _ in seen] == [Flat().name, Fallback().name, Flat().name]
        assert [generation for _, generation in seen] == [2, 3, 4], "each in one transaction"
    assert "endpoints" in space.run("nft", "list", "table", "ip", TABLE)


def test_a_kernel_that_keeps_no_comments_of_tables_keeps_the_fallback(space: Netns) -> None:
    policy = Policy(node_port_addresses=())
    delta = Shadow(Fallback(), policy).whole({"rehearsal/every-kind": probe.every_kind(Family.V4)}, Seen("gone"), None)
    written = table.batch(delta, Family.V4, Fallback())
    uncommented = Batch(socket_family(Family.V4), TABLE)
    uncommented.add_table()
    with connected(space) as kernel:
        kernel.commit(uncommented)
        delta.rebuild = False
        kernel.commit(table.batch(delta, Family.V4, Fallback()))
        assert kernel.tables()[0].comment is None
        assert table.read(kernel, Family.V4, Fallback()).why == ""
        assert "somebody else's" in table.read(kernel, Family.V4, Flat()).why
        kernel.commit(written)
        assert table.read(kernel, Family.V4, Fallback()).why == ""
