"""Container and machine metrics under cAdvisor's names, for Prometheus.

Nothing is sampled in the background: a scrape walks the node's cgroup tree, reads each group's files once and writes the
text. `observe` knows whose cgroup is whose (from the runtime's labels), `collector` reads, `families` says what a metric is
called and where its value comes from, `exposition` writes. The kubelet serves the same text from its own port.
"""
