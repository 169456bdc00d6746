"""Probes: when, how, and what they add up to."""
