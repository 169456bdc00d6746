"""hostPort: a port of the node leads to a pod. What is asked (``mapping``), its rules for the two packet filters
(``iptables``, ``nftables``), and the flows that a rule comes too late for (``flows``). ``cni.plugins.portmap`` is the door.
"""
