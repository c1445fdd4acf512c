"""Several processes answer on one port; one owns the engines."""
