"""Self-contained HTML: no script, nothing loaded from elsewhere, light or dark as the reader is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["document", "table"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--paper:#fff;--soft:#5b6675;--rule:#d9dee5;--shade:#00000012;--c0:#0067a5;
--c1:#c65102;--c2:#007a5a;--c3:#a3487f;--c4:#5b4b9a;--c5:#7a6000;--bad:#b3263f}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--paper:#14181f;--soft:#a2acb9;--rule:#333c48;--shade:#ffffff14;
--c0:#5db8f5;--c1:#f59f3d;--c2:#2fc39b;--c3:#e39cc6;--c4:#b5a7f2;--c5:#e8d75a;--bad:#f2869a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1040px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem}.soft,small{color:var(--soft)}small{overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.7rem 0;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--rule);padding:.25rem .9rem .25rem 0;font-size:14px;text-align:right;
white-space:nowrap}th:first-child,td:first-child{text-align:left}th:last-child,td:last-child{padding-right:0}
summary{font-size:1.1rem;font-weight:600;cursor:pointer;margin:1.1rem 0 .4rem}
td.words{white-space:normal;text-align:left}
.warn{border-left:4px solid var(--bad);padding-left:.7rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:1.2rem 1.5rem}
figure{margin:0;min-width:0}svg{width:100%;height:auto;display:block}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}
svg .title{font-size:14px;font-weight:600}svg .tick{fill:var(--soft)}svg .label,svg .middle{text-anchor:middle}
svg .end{text-anchor:end}svg .grid{stroke:var(--rule)}svg .shade{fill:var(--shade)}
svg .happened{stroke:var(--soft);stroke-dasharray:2 3}.line{fill:none;stroke-width:1.8}svg .bar{stroke-width:1.4}
.legend,.told{font-size:13px;margin:.1rem 0 0;padding:0 0 0 13.5%}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem}.told{color:var(--soft);padding-left:17%}
svg.mark{display:inline-block;width:26px;height:6px;margin-right:.4em;vertical-align:middle}
.line.c1{stroke-dasharray:7 3}.line.c2{stroke-dasharray:2 3}.line.c3{stroke-dasharray:9 3 2 3}
.line.c4{stroke-dasharray:12 4}.line.c5{stroke-dasharray:4 2}
""" + "".join(f".line.c{n},.bar.c{n}{{stroke:var(--c{n})}}.dot.c{n}{{fill:var(--c{n})}}" for n in range(6))


def document(title: str, body: Iterable[str]) -> str:
    """`body` is HTML, in which what came from outside is escaped; `title` is text."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{''.join(body)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(one)}</th>" for one in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(one)}</td>" for one in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'
