"""Variants against each other over a dataset: every question is answered by each, and they are compared in pairs."""
