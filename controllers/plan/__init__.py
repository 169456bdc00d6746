"""What to write, as pure functions of what is there: a plan for each loop.

Nothing here awaits, reads a clock or logs; `now` comes in as an argument, and what comes out are `controllers.model`
actions or plain values.
"""
