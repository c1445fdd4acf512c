"""Variants that compete for traffic, and statistics that may be looked at at any time."""
