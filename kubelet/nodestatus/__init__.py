"""The node as the API sees it: what the machine is, what it can carry, how it fares, and that it lives."""
