"""cAdvisor's REST: /api/v1.0 to v1.3 and /api/v2.0, v2.1.

`v1` and `v2` are cAdvisor's JSON shapes (its packages info/v1 and info/v2), made of a snapshot and the frames of the history;
`questions` reads what is asked; `routes` answers. What cAdvisor itself leaves at zero everywhere (tcp_advanced, schedstat,
custom metrics) is left out rather than made up: its Go structs read an absent field as zero.
"""

from metrics.rest.routes import routes

__all__ = ["routes"]
