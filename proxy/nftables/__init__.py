"""Services as elements of a few nf_tables maps."""
