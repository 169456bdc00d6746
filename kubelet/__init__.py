"""The kubelet: runs the pods that are bound to this node and tells the API how they are.

The usual furniture (config, model, observe, plan, apply, daemon) and these nouns: `runtime` and its backends carry
pods, `probes` ask them how they feel, `volumes` and `environment` furnish them, `status` words what they are, `workers`
give each one its serial life, `node` speaks for the machine.
"""
