"""The names that applications use. Each is a thin front of the gateway: the same routing, failover and limits."""
