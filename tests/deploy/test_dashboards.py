"""Grafana's board and the alerts ask for metrics and labels that there are, in queries that Prometheus can read."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import pytest
import yaml

from roundhouse.telemetry.events import CALLERS_OWN

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "roundhouse.json").read_text())
ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus-alerts.yaml").read_text())
# What Prometheus adds to whatever it scrapes, and the series of its own that an alert uses.
ADDED = {"instance", "job", "le"}
OWN = {"up": set[str]()}


def _documented() -> dict[str, set[str]]:
    """The labels of each metric; another test holds the names of the page against those that are exported."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "telemetry.md").read_text().splitlines():
        if row := re.match(r"\| ((?:`roundhouse_\w+`(?:, )?)+) \| ([\w, ]*)\|", line):
            for name in re.findall(r"roundhouse_\w+", row[1]):
                found[name] = set(row[2].replace(" ", "").split(",")) - {""}
    return found | OWN


def _queries() -> Iterator[tuple[str, str]]:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for annotation in BOARD["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield f"alert {rule['alert']}", rule["expr"]


QUERIES = dict(_queries())


def _plain(query: str) -> str:
    return query.replace("$__rate_interval", "5m").replace("$", "")


def _walk(node: object) -> Iterator[object]:
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "args", "param"):
        below = getattr(node, name, None)
        for one in below if isinstance(below, list) else [below]:
            if one is not None:
                yield from _walk(one)


def _metric(name: str) -> str:
    """A histogram's series have names of their own."""
    return re.sub(r"_(bucket|count|sum)\Z", "", name)


@pytest.mark.parametrize("where", QUERIES)
def test_a_query_asks_for_what_is_exported(where: str) -> None:
    documented = _documented()
    found = list(_walk(promql_parser.parse(_plain(QUERIES[where]))))
    selectors = [node for node in found if isinstance(node, promql_parser.VectorSelector)]
    assert selectors
    for selector in selectors:
        labels = documented[_metric(selector.name)]
        assert {matcher.name for matcher in selector.matchers.matchers} <= labels | ADDED
    everything = set[str]().union(*(documented[_metric(one.name)] for one in selectors))
    for node in found:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert set(node.modifier.labels) <= everything | ADDED


def test_the_board_shows_every_metric() -> None:
    shown = " ".join(target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", ()))
    assert [name for name in _documented() if name not in shown and name not in OWN] == []


def test_a_legend_names_labels_that_its_series_have() -> None:
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            parsed = promql_parser.parse(_plain(target["expr"]))
            found = list(_walk(parsed))
            grouped = [set(one.modifier.labels) for one in found if getattr(one, "modifier", None) is not None
                       and isinstance(one, promql_parser.AggregateExpr)]  # fmt: skip
            selected = [
                _documented()[_metric(one.name)] for one in found if isinstance(one, promql_parser.VectorSelector)
            ]
            has = grouped[0] if grouped else selected[0]
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= has, panel["title"]


def test_panels_lie_beside_and_below_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


@pytest.mark.parametrize("where", ["panel Requests failed", "alert RoundhouseRequestsFail"])
def test_what_a_caller_did_wrong_is_no_failure_of_the_server(where: str) -> None:
    (excluded,) = re.findall(r'outcome!~"([^"]+)"', QUERIES[where])
    assert set(excluded.split("|")) == {"ok", "client_left", *CALLERS_OWN}
