"""Images: whether they are there, getting them, with whose credentials, and giving their disk back."""
