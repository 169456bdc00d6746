"""The overlay: one network for all pods of a cluster, carried between nodes in VXLAN, in flannel's own words.

A node's pods have addresses of the node's podCIDR. The room's daemon builds the device flannel.<VNI>, tells the other
nodes about it through annotations on its own Node, and keeps one route, one neighbour and one FDB entry for each of them.
`plan` explains why these three are enough.
"""
