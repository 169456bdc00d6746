"""The scheduler: gives each pod without a node the node that suits it best.

A stock kube-scheduler can take this room's place, and this room that one's: it reads pods, nodes and Services and writes
pods/binding, the PodScheduled condition and Events, nothing else.
"""
