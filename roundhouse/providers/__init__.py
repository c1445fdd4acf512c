"""How to talk to a backend: clients that know a wire and nothing of processes, metrics or each other."""
