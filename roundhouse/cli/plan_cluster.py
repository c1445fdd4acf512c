"""`roundhouse plan --cluster FILE`, printed."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from roundhouse.cli.common import print_json, tell
from roundhouse.cli.tables import print_table
from roundhouse.config import Invalid, Settings
from roundhouse.config.cluster import read_cluster
from roundhouse.gateway.cluster import ClusterPlan, Loss, ModelPlan, plan_cluster

__all__ = ["show_cluster"]


def show_cluster(path: Path, settings: Settings, *, as_json: bool) -> bool:
    """Whether all fits and every objective holds while all nodes live."""
    try:
        file = read_cluster(path)
    except Invalid as error:
        for fault in error.faults[:-1]:
            tell(f"roundhouse: {fault}")
        raise error.faults[-1] from error
    plan = plan_cluster(file, settings)
    if as_json:
        print_json(_as_dict(plan))
    else:
        _show(plan)
    return plan.fits


def _show(plan: ClusterPlan) -> None:
    heads = ("model", "rate/s", "per replica", "needs", "placed", "busy", "wait", "objective", "")
    print_table(heads, [_model_row(one) for one in plan.models])
    for one in plan.models:
        for note in one.notes:
            print(f"  {one.model.name}: {note}")
    print()
    print_table(("node", "replicas"), [(node.name, _on(plan, node.name)) for node in plan.nodes])
    print()
    losses = ("if this dies", "model", "replicas", "answers at once", "back elsewhere", "then waits", "")
    rows = [_loss_row(node, loss) for node, losses in plan.losses.items() for loss in losses]
    print_table(losses, rows)


def _model_row(one: ModelPlan) -> tuple[str, ...]:
    model, wait = one.model, one.wait
    said = "" if one.held else ("no room for all" if one.placed < one.needed else "too slow")
    if wait is None:
        return model.name, "-", "-", str(one.needed), str(one.placed), "-", "-", "-", said
    return (
        model.name,
        f"{model.rate:g}",
        f"{model.per_replica:g}",
        str(one.needed),
        str(one.placed),
        f"{wait.busy:.0%}",
        f"p{100 * model.share:g} {_time(one.wait_s)}",
        f"{model.wait_s:g} s",
        said,
    )


def _on(plan: ClusterPlan, node: str) -> str:
    counts = Counter((one.model, _places(one.needs)) for one in plan.cluster.on(node))
    said = [f"{model}{f' x{count}' if count > 1 else ''} ({places})" for (model, places), count in counts.items()]
    return ", ".join(said) or "nothing"


def _places(needs: Any) -> str:
    gpus = [name for name, size in needs.items() if size and name.startswith("cuda")]
    return "+".join(gpus) or "cpu"


def _loss_row(node: str, loss: Loss) -> tuple[str, ...]:
    return (
        node,
        loss.model,
        f"{loss.left} of {loss.before} left",
        f"{loss.served:.0%}",
        f"{loss.back - loss.left} of {loss.before - loss.left}",
        _time(loss.wait_s),
        "" if loss.held else "objective missed",
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return "for ever" if math.isinf(seconds) else f"{seconds:.2f} s"


def _as_dict(plan: ClusterPlan) -> dict[str, Any]:
    return {
        "fits": plan.fits,
        "models": [
            {
                "model": one.model.name,
                "needed": one.needed,
                "placed": one.placed,
                "held": one.held,
                "busy": one.wait.busy if one.wait else None,
                "wait_s": _finite(one.wait_s),
                "wait_limit_s": one.model.wait_s,
                "percentile": 100 * one.model.share,
                "notes": list(one.notes),
            }
            for one in plan.models
        ],
        "nodes": [
            {
                "node": node.name,
                "room": dict(node.room),
                "replicas": [{"model": one.model, "needs": dict(one.needs)} for one in plan.cluster.on(node.name)],
            }
            for node in plan.nodes
        ],
        "losses": {
            node: [
                {
                    "model": loss.model,
                    "before": loss.before,
                    "left": loss.left,
                    "back": loss.back,
                    "served": loss.served,
                    "wait_s": _finite(loss.wait_s),
                    "held": loss.held,
                }
                for loss in losses
            ]
            for node, losses in plan.losses.items()
        },
    }


def _finite(seconds: float | None) -> float | None:
    """JSON has no infinity; null with `held` false is a wait without end."""
    return None if seconds is None or math.isinf(seconds) else seconds
