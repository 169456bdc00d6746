"""Whether the node takes a pod that was bound to it, and what of a pod it cannot give."""
