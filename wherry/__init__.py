"""The one command people type, and installing Wherry on a host."""
