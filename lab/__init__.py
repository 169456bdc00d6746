"""A whole cluster on one machine: each node a network namespace, each daemon a process of its own.

    root namespace            outer namespace wherry-<lab>                 node namespace wherry-<lab>-node1
    127.0.0.1:6443   ----->   forwarder -- bridge "underlay" 10.200.0.1 -- eth0 10.200.0.11  apiserver kubelet proxy ...
    127.0.0.1:30080  ----->                     |--------------------- eth0 10.200.0.12  node2 ...

Only the forwarder's listening sockets are in the root namespace; everything else, also dockerd when the lab starts its own,
lives in the lab's namespaces. Nothing has a default route. `plan` says what a lab consists of, `network` makes and unmakes
the namespaces, `supervisor` keeps the daemons running, `commands` is what people type.
"""
