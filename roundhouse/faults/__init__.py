"""A backend that fails in every known way, and a runner that watches a gateway survive it."""
