"""Ports as clients write them."""


def port_of(text: str) -> int | None:
    """1 to 65535, in at most five digits; None for anything else."""
    if len(text) > 5 or not (text.isascii() and text.isdigit()):
        return None
    return port if 0 < (port := int(text)) < 65536 else None
