"""nf_tables over netlink, by hand: transactions, dumps, notifications. Nothing here knows what the rules are for."""
