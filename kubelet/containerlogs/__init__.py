"""What containers said: reading logs, keeping them small, finding them, and termination messages."""
