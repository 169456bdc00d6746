"""Stamps, comments and the text of chains."""

from linux.iptables.rules import Chain, Jump, Mark, Rule, Section, Table, comment_of, parse, render, stamp_of, target_of


def test_the_first_rule_carries_the_stamp_of_the_whole_chain() -> None:
    one = Chain(Table.NAT, "A", (Rule("-j B", "ns/svc:http"), Rule("-j C")))
    other = Chain(Table.NAT, "A", (Rule("-j B", "ns/svc:http"), Rule("-j D")))
    first, second = one.body.splitlines()
    assert stamp_of(first) == one.mark.stamp != other.mark.stamp
    assert stamp_of(second) == ""
    assert comment_of(first) == "ns/svc:http"
    assert one.mark.length == 2


def test_an_empty_chain_is_marked_by_its_emptiness() -> None:
    assert Chain(Table.NAT, "A").mark == Mark("", 0)
    assert parse("*nat\n:A - [0:0]\nCOMMIT\n").marks() == {(Table.NAT, "A"): Mark("", 0)}


def test_a_stamp_survives_what_iptables_save_does_to_a_rule() -> None:
    chain = Chain(Table.NAT, "A", (Rule("-m tcp -p tcp -d 10.0.0.1 --dport 80 -j B", 'a "quoted" \\ comment'),))
    saved = (
        "*nat\n:A - [12:345]\n-A A -d 10.0.0.1/32 -p tcp -m comment "
        f'--comment "a \\"quoted\\" \\\\ comment wherry:{chain.mark.stamp}" -m tcp --dport 80 -j B\nCOMMIT\n'
    )
    snapshot = parse(saved)
    assert snapshot.marks()[chain.key] == chain.mark
    assert comment_of(snapshot.lines(Table.NAT, "A")[0]) == 'a "quoted" \\ comment'


def test_an_added_or_missing_rule_breaks_the_mark() -> None:
    chain = Chain(Table.NAT, "A", (Rule("-j B", "x"), Rule("-j C")))
    lines = chain.body.splitlines()
    for rules in (lines[:1], [*lines, "-A A -j D"], lines[1:], []):
        seen = parse("\n".join(["*nat", ":A - [0:0]", *rules, "COMMIT"])).marks()[chain.key]
        assert seen != chain.mark


def test_targets_are_not_looked_for_in_comments() -> None:
    assert target_of('-m comment --comment "says -j DROP" -s 10.0.0.1/32 -g NEXT') == "NEXT"
    assert target_of("-m recent --set --name X --rsource") is None


def test_a_jump_is_known_by_target_and_comment() -> None:
    jump = Jump(Table.NAT, "OUTPUT", Rule("-m conntrack --ctstate NEW -j X", "portals"))
    there = parse("*nat\n-A OUTPUT -m conntrack --ctstate NEW -m comment --comment portals -j X\nCOMMIT\n")
    other = parse('*nat\n-A OUTPUT -m comment --comment "other portals" -j X\nCOMMIT\n')
    assert jump.is_in(there)
    assert not jump.is_in(other)


def test_a_section_declares_every_chain_before_the_first_rule() -> None:
    text = Section(
        Table.NAT,
        (Chain(Table.NAT, "A", (Rule("-j B"),)), Chain(Table.NAT, "B")),
        flushed=("OLD",),
        jumps=(Jump(Table.NAT, "OUTPUT", Rule("-j A")),),
        deleted=("OLD",),
    ).text()
    stamp = Chain(Table.NAT, "A", (Rule("-j B"),)).mark.stamp
    assert text.splitlines() == [
        "*nat",
        ":A - [0:0]",
        ":B - [0:0]",
        ":OLD - [0:0]",
        f'-A A -m comment --comment "wherry:{stamp}" -j B',
        "-I OUTPUT 1 -j A",
        "-X OLD",
        "COMMIT",
    ]


def test_render_and_parse_agree() -> None:
    chains = [Chain(Table.NAT, "A", (Rule("-j ACCEPT", "x"),)), Chain(Table.FILTER, "A"), Chain(Table.NAT, "B")]
    assert parse(render(chains)).marks() == {chain.key: chain.mark for chain in chains}
