"""The CNI plugins: what kubelet and containerd exec once per pod to give it a network.

This room differs from the others openly. What is exec'd is a process per call: a shim that asks the resident ``agent``, or,
alone, an interpreter that lives for some 20 ms, half of them its own start. So there is no loop and there are no informers;
the room imports nothing beyond the standard library and, where a plugin runs alone, only what starts cheaply (no json, re,
typing, enum, dataclasses, ipaddress or socket on the way: each costs more than all of a pod's kernel work).

    shim.c, shim.py   what a runtime execs ---> agent, workers   the resident half: a thread a call
            |                                        |
            +--> alone    without the agent          |
                   |                                 |
                   +--> journal  ADDs under way  <---+
                          |
                          +--> run    one call, from its words to the answer's --> plugins

``plan`` and ``apply`` are where every room has them; ``store`` (on ``shelf``) is the address ledger that survives the process;
``spec`` is the CNI specification's own vocabulary, which the kubelet speaks too; ``launcher`` writes the programs.
"""
