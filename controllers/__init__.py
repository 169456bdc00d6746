"""The controllers: the reconcile loops of the centre.

The usual furniture, with one noun for each loop. `controllers/plan/NOUN.py` is pure and says what to write;
`controllers/NOUN.py` beside it knows which keys a change concerns and carries the plan out. All loops share the informers
of `observe`. A stock kube-controller-manager can take this room's place, and this room that one's.
"""
