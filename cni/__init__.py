"""The CNI plugin: what kubelet and containerd exec once per pod to give it a network.

This room differs from the others openly. It is no daemon: a process per call, which lives for some 15 ms, two thirds of
them the interpreter's own start. So it has no loop and no informers, imports nothing beyond the standard library and,
of that, only what starts cheaply (no json, re, typing, enum, dataclasses, ipaddress or socket on the way: each costs
more than all of a pod's kernel work). ``plan`` and ``apply`` are where every room has them; ``store`` is the address
ledger that survives the process; ``spec`` is the CNI specification's own vocabulary, which the kubelet speaks too.
"""
