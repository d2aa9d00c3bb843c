"""Pieces of an HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
import numpy.typing as npt

from certserve import images

__all__ = ["document", "image_source", "png_source", "table"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
th { vertical-align: bottom; }
td:last-child { overflow-wrap: anywhere; }
.warning { border-left: .4rem solid #c00; background: #fee; padding: .7rem 1rem; font-weight: 600; }
.triples { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .8rem; max-width: 15rem; }
figure.triple img { width: 5rem; height: 5rem; object-fit: contain; image-rendering: pixelated; }
img.plot { max-width: 100%; width: 44rem; }
@page { size: A4 landscape; margin: 12mm; }
@media print { tr { break-inside: avoid; } body { font-size: 11px; margin: 0; padding: 0; } }
"""


def document(title: str, body: Iterable[str]) -> str:
    """The page. body: HTML, an element an entry."""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def image_source(pixels: npt.NDArray[np.uint8], colour: str) -> str:
    """What shows an image, (channels, height, width), whose channels are as `colour` says."""
    return png_source(images.encode_png(pixels, colour))


def png_source(png: bytes) -> str:
    """What shows a PNG file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
