"""What is wanted of this node (the API's pods, static ones, what they refer to), and what the runtime has."""
