"""How to run a backend: a child process and its life."""
