"""Self-contained HTML: no script, nothing loaded from elsewhere, light or dark as the reader is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["document", "table"]

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--paper:#fff;--soft:#5b6675;--rule:#d9dee5;--c0:#1f6fb4;--c1:#c2570c;
--c2:#2f8a3c;--c3:#8a45b0;--c4:#b3263f;--c5:#5f6a12}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--paper:#14181f;--soft:#a2acb9;--rule:#333c48;--c0:#6db3f2;
--c1:#f5a15c;--c2:#77cc83;--c3:#c99be8;--c4:#f2869a;--c5:#c6cf6a}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:960px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.25rem;margin-top:2.5rem}.soft,small{color:var(--soft)}small{overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.7rem 0;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--rule);padding:.25rem .8rem .25rem 0;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}td.words{white-space:normal;text-align:left}
.warn{border-left:4px solid var(--c4);padding-left:.7rem}
svg{width:100%;height:auto;display:block}svg text{fill:var(--ink);font:12px system-ui,sans-serif}
svg .title{font-size:14px;font-weight:600}svg .tick{fill:var(--soft)}svg .label,svg .middle{text-anchor:middle}
svg .end{text-anchor:end}svg .grid{stroke:var(--rule)}.line{fill:none;stroke-width:1.8;stroke-linecap:round}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0 0 0 10%;margin:0 0 1.6rem}
.mark{display:inline-block;width:1.2em;height:.25em;margin-right:.4em;vertical-align:middle}
""" + "".join(f".line.c{n}{{stroke:var(--c{n})}}.mark.c{n}{{background:var(--c{n})}}" for n in range(6))


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
