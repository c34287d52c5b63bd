# SPDX-License-Identifier: Apache-2.0
"""What notebooks show for a Plan, a Tensor, PoolStats and BuildInfo.

Lines and text have the colour of the page, so that they are read on light and on dark ones. Nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core import Plan, Tensor
    from ._pool import PoolStats

_OLD, _NEW, _CROSS = "#2da44e", "#d29922", "#e5534b"  # memory of x, new memory, a refusal


def bytes_text(count: int) -> str:
    """The bytes with a unit, as messages have them, and the exact number where it is a large one."""
    if count < 1000:
        return f"{count} bytes"
    value, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:.1f} {units[0]} ({count:,} bytes)"


def table(title: str, rows: Iterable[tuple[str, object]], above: str = "") -> str:
    """A table of two columns. Only `above` is HTML already."""
    cell = "padding:2px 12px 2px 0;text-align:left;vertical-align:top;white-space:normal;overflow-wrap:anywhere"
    body = "".join(
        f'<tr style="background:none"><th scope="row" style="{cell};font-weight:600;white-space:nowrap">'
        f'{escape(name)}</th><td style="{cell}">{escape(str(value))}</td></tr>'
        for name, value in rows
    )
    return (
        f'<div style="max-width:48em"><code>{escape(title)}</code>{above}'
        f'<table style="border-collapse:collapse;margin:4px 0">{body}</table></div>'
    )


def plan(shown: Plan) -> str:
    """The drawing, and what the Plan says."""
    rows: dict[str, object] = {"verdict": shown.verdict}
    if shown.reasons:
        rows["reasons"] = ", ".join(shown.reasons)
    rows["bytes"] = bytes_text(shown.bytes)
    if shown.path:
        rows["path"] = " → ".join(shown.path)
    return table("dlbridge.Plan", (rows | {"message": shown.message}).items(), _drawing(shown))


def tensor(shown: Tensor) -> str:
    """Its attributes."""
    rows: dict[str, object] = {
        name: getattr(shown, name) for name in ("shape", "strides", "dtype", "device", "size", "read_only", "is_copied")
    }
    rows["strides"] = f"{shown.strides} elements"
    rows["memory"] = f"{bytes_text(shown.nbytes)} at {shown.data_ptr:#x}"
    return table("dlbridge.Tensor", rows.items())


def pool_stats(shown: PoolStats) -> str:
    """The bytes, and the counts after them."""
    numbers = list(shown._asdict().items())
    first_count = shown._fields.index("hits")
    sizes = [(name, bytes_text(value)) for name, value in numbers[:first_count]]
    return table("dlbridge.PoolStats", [*sizes, *((name, f"{value:,}") for name, value in numbers[first_count:])])


def build_info(shown: Mapping[str, object]) -> str:
    """Its items."""
    return table("dlbridge.BuildInfo", shown.items())


def _cells(x: int, colour: str) -> str:
    """A piece of memory: eight cells from `x` on, dashed and empty where there is no colour."""
    look = f'fill="{colour}" fill-opacity=".3"' if colour else 'stroke-dasharray="4 3"'
    return "".join(f'<rect x="{x + 15 * i}" y="24" width="15" height="22" {look}/>' for i in range(8))


def _text(x: int, y: int, words: str) -> str:
    return f'<text x="{x}" y="{y}" fill="currentColor" stroke="none" text-anchor="middle">{escape(words)}</text>'


def _drawing(shown: Plan) -> str:
    """One memory with two names where it is shared; else an arrow to new memory, crossed out where refused."""
    refused, top = shown.verdict == "refuse", 2
    if shown.verdict == "share":
        label, top = "one memory, two names", 20
        parts = [
            _text(6, 39, "x"),
            '<path d="M16 35H76M70 31l6 4-6 4M272 35H212M218 31l-6 4 6 4"/>',
            _cells(84, _OLD),
            _text(296, 39, "result"),
            _text(144, 64, label),
        ]
    else:
        stage = next((step.split() for step in shown.path if step.startswith("stage ")), None)
        label = "refused" if refused else bytes_text(shown.bytes).partition(" (")[0]
        parts = [
            _text(61, 16, "x"),
            _cells(1, _OLD),
            '<path d="M131 35H251M244 30l7 5-7 5"/>',
            _text(191, 64, label),
            _cells(261, "" if refused else _NEW),
            _text(321, 16, "no result" if refused else "result"),
        ]
        if refused:
            parts.append(f'<path d="M183 27l16 16M199 27l-16 16" stroke="{_CROSS}" stroke-width="3"/>')
        else:
            parts.append(_text(191, 27, shown.verdict))
        if stage:
            parts += [_text(61, 64, stage[1]), _text(321, 64, stage[3])]
    return (
        f'<svg viewBox="0 {top} 382 {68 - top}" width="382" height="{68 - top}" '
        f'role="img" aria-label="{escape(f"{shown.verdict}: {label}")}" font-family="sans-serif" font-size="12" '
        f'fill="none" stroke="currentColor" style="display:block;max-width:100%;margin:4px 0">{"".join(parts)}</svg>'
    )
