"""How Ray Serve is to carry requests, as its environment says: in a cluster started here, and in manifests of one."""

from __future__ import annotations

__all__ = ["CARRYING"]

# A call to a replica by an actor's task, over three event loops with a thread each, costs half as much again as by gRPC
# on one loop (docs/cluster.md). Nothing of ours blocks a loop. What Serve logs goes to its own files alone.
CARRYING = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "roundhouse.cluster.proxied:middlewares",
}
