"""The ways to reach another node, each a module of pure functions from leases to what should be in the kernel.

Every backend says its tunnels, the MTU inside, why a peer cannot be reached by it, and the whole wish of one tunnel. Which one
it is, net-conf.json says; the plan that compares a wish with the kernel knows none of them.
"""
