"""The kernel's packet filter through iptables: rules as values, one reader and one writer.

`rules` holds the values, `changes` what to write when they differ from what is there, `restore` the only door to the
kernel, `backend` which of the two kernel interfaces (nft, legacy) this machine uses, `tracer` where a packet would go,
`legacy_reader` a second pair of eyes on legacy tables.
"""
