"""The node's service proxy: Services and EndpointSlices in, NAT rules in the kernel out.

Drop-in for kube-proxy in iptables mode: the same configuration kind, chain names, marks, ports and metric names.
"""
