"""One HTML file with all of an evaluation, which needs no network to be read."""

import base64
import io
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from captum_cams.evaluation import figures
from captum_cams.evaluation.papers import (
    PAPERS,
    STYLES,
    arrow,
    compared_methods,
    higher_is_better,
)
from captum_cams.evaluation.records import Record, Run
from captum_cams.evaluation.summary import Summary, metric_value, protocols_of
from captum_cams.evaluation.tables import (
    Table,
    empty_message,
    picture_counts,
    run_title,
    tables,
    timings,
    write_text,
)
from captum_cams.visualization import panel

Gallery: TypeAlias = Callable[[int, int, str, str], tuple[Tensor, Tensor, Tensor, str]]
"""
Of index, target, method and layer: the picture (3, H, W) in [0, 1], its map (h, w), the
boxes (n, 4) and a caption.
"""

_RANKED_BY = {"rsi": "average_drop", "igc": "pixel_energy", "group-cam": "overall"}
_RANKS = ("best", "typical", "worst")

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --soft: #59636e;
  --line: #d5dae0; --band: #f5f7f9; --link: #0757a8; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e3e7eb;
  --soft: #9aa4af; --line: #343b43; --band: #1d2126; --link: #7ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 70rem; color: var(--text);
  background: var(--back); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 1rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
a { color: var(--link); }
code { font: .92em ui-monospace, monospace; overflow-wrap: anywhere; }
.note, figcaption { color: var(--soft); font-size: .88rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .92rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: top; }
th[scope=row], .names { text-align: left; font-weight: normal; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; }
tbody tr:hover { background: var(--band); }
td span { color: var(--soft); font-size: .88em; }
td.long { white-space: normal; overflow-wrap: anywhere; text-align: left; }
figure { margin: 1.25rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.cases { display: grid; gap: 1rem; overflow-wrap: anywhere;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.cases figure { margin: 0; }
"""


class _Case(NamedTuple):
    """The best, the typical or the worst map by a metric."""

    rank: str
    value: float
    picture: int
    target: int


def write(
    out: Path, summary: Summary, records: Iterable[Record], gallery: Gallery
) -> None:
    """
    Writes ``report.html``, with the figures that ``figures`` holds.

    Args:
        out (Path): The folder of results.
        summary (Summary): Of all records.
        records (iterable of Record): In the order of :class:`Records`.
        gallery (Callable): Explains a picture again; see :data:`Gallery`. It is asked
            for three pictures of each protocol, method and layer, ablations left out.
    """
    page = "\n".join(_page(out, summary, records, cache(_shown(gallery))))
    write_text(out / "report.html", page + "\n")


def cases(
    run: Run, records: Iterable[Record]
) -> dict[tuple[str, str, str], list[_Case]]:
    """
    The best, the median and the worst map by the protocol's main metric.

    By protocol, method and layer. Of equal maps the first in the records' order counts.
    """
    values: dict[tuple[str, str, str], tuple[array[float], array[int]]] = {}
    compared = {
        protocol: compared_methods(run, protocol) for protocol in run["methods"]
    }
    for record in records:
        if "method" not in record:
            continue
        for protocol in protocols_of(run, record):
            if record["method"] not in compared[protocol]:
                continue
            value = metric_value(record, _RANKED_BY[protocol])
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                continue
            key = protocol, record["method"], record["layer"]
            known, shown = values.setdefault(key, (array("d"), array("q")))
            known.append(value)
            shown.extend((record["index"], record["target"]))
    return {
        key: [
            _Case(rank, known[i], shown[2 * i], shown[2 * i + 1])
            for rank, i in zip(_RANKS, _best_typical_worst(key[0], known), strict=True)
        ]
        for key, (known, shown) in values.items()
    }


def _best_typical_worst(protocol: str, values: Sequence[float]) -> list[int]:
    sign = -1 if higher_is_better(_RANKED_BY[protocol]) else 1
    order = np.argsort(sign * np.array(values), kind="stable")
    return [int(order[rank]) for rank in (0, (len(order) - 1) // 2, -1)]


def _shown(gallery: Gallery) -> Callable[[int, int, str, str], tuple[str, str]]:
    def draw(index: int, target: int, method: str, layer: str) -> tuple[str, str]:
        """The picture beside its map, as a data URI, and a caption."""
        picture, cam, boxes, caption = gallery(index, target, method, layer)
        figure = panel(picture[None], {method: cam[None]}, boxes=[boxes])
        file = io.BytesIO()
        figure.savefig(file, format="jpeg", dpi=110, pil_kwargs={"quality": 85})
        return _uri("jpeg", file.getvalue()), caption

    return draw


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _page(
    out: Path,
    summary: Summary,
    records: Iterable[Record],
    shown: Callable[[int, int, str, str], tuple[str, str]],
) -> Iterator[str]:
    run = summary.run
    heading = escape(run_title(run))
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    # Nothing is fetched and no script runs, whatever the names of files hold.
    yield (
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
    )
    yield f"<title>{heading}: class activation maps</title>"
    yield f"<style>{_STYLE}</style></head><body>"
    yield f"<header><h1>Class activation maps of {heading}</h1>"
    yield '<nav aria-label="Contents"><ul>'
    yield '<li><a href="#pictures">Pictures</a></li>'
    for protocol in run["methods"]:
        name = escape(PAPERS[protocol].title)
        yield f'<li><a href="#{protocol}">{name}</a>: '
        yield f'<a href="#{protocol}-figures">figures</a>, '
        yield f'<a href="#{protocol}-gallery">gallery</a></li>'
    yield '<li><a href="#time">Time</a></li>'
    yield '<li><a href="#settings">Settings</a></li></ul></nav></header><main>'
    yield '<h2 id="pictures">Pictures</h2><ul>'
    yield from (f"<li>{escape(line)}</li>" for line in picture_counts(summary))
    yield "</ul>"
    chosen = cases(run, records)
    for protocol in run["methods"]:
        yield from _protocol(out, summary, protocol, chosen, shown)
    yield '<h2 id="time">Time</h2>'
    yield from _table(timings(summary))
    yield '<h2 id="settings">Settings</h2>'
    yield from _settings(run)
    yield "</main></body></html>"


def _protocol(
    out: Path,
    summary: Summary,
    protocol: str,
    chosen: Mapping[tuple[str, str, str], Sequence[_Case]],
    shown: Callable[[int, int, str, str], tuple[str, str]],
) -> Iterator[str]:
    name = PAPERS[protocol].title
    yield f'<h2 id="{protocol}">{escape(name)}</h2>'
    if not summary.pictures[protocol]:
        yield f"<p>{escape(empty_message(protocol))}</p>"
    for table in tables(summary, protocol):
        yield from _table(table)
    yield f'<h3 id="{protocol}-figures">Figures of {escape(name)}</h3>'
    yield from _figures(out, protocol)
    metric = _RANKED_BY[protocol]
    yield f'<h3 id="{protocol}-gallery">Gallery of {escape(name)}</h3>'
    yield (
        f'<p class="note">The best, the typical (median) and the worst map of each '
        f"method by {escape(STYLES[metric].label)}{arrow(metric)}: the picture with "
        f"its boxes, and the map over it.</p>"
    )
    for method in summary.run["methods"][protocol]:
        for layer in ["", *summary.run["layers"]]:
            found = chosen.get((protocol, method, layer))
            if found:
                yield f"<h4>{_with_layer(method, layer)}</h4>"
                yield from _cases(found, method, layer, metric, shown)


def _with_layer(text: str, layer: str) -> str:
    where = f", layer <code>{escape(layer)}</code>" if layer else ""
    return escape(text) + where


def _cases(
    found: Sequence[_Case],
    method: str,
    layer: str,
    metric: str,
    shown: Callable[[int, int, str, str], tuple[str, str]],
) -> Iterator[str]:
    yield '<div class="cases">'
    for rank, value, index, target in found:
        uri, caption = shown(index, target, method, layer)
        style = STYLES[metric]
        number = f"{style.label} {value * style.scale:{style.form}}%"
        text = f"{caption}, and its map by {method}"
        yield (
            f'<figure><img src="{uri}" alt="{escape(text)}"><figcaption>'
            f"<b>{rank}</b>, {escape(number)}<br>{escape(caption)}"
            "</figcaption></figure>"
        )
    yield "</div>"


def _figures(out: Path, protocol: str) -> Iterator[str]:
    captions = {}
    for path in sorted((out / figures.FOLDER).glob("*.png")):
        with Image.open(path) as image:
            if image.info.get("Subject") == protocol:
                captions[path] = str(image.info["Description"])
    for path in sorted(captions, key=lambda path: _number(captions[path])):
        caption = escape(captions[path])
        yield (
            f'<figure><img src="{_uri("png", path.read_bytes())}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if not captions:
        yield '<p class="note">None.</p>'


def _number(caption: str) -> int:
    """The number of the paper's figure or table in a caption."""
    found = re.search(r"\((?:Fig\.|Table) (\d+)", caption)
    return int(found[1]) if found else 0


def _table(table: Table) -> Iterator[str]:
    yield f"<h3>{_with_layer(table.title, table.layer)}</h3>"
    yield '<div class="scroll" tabindex="0"><table><thead><tr>'
    for head in table.heads:
        yield f'<th scope="col" class="names">{escape(head)}</th>'
    for column in table.columns:
        yield f'<th scope="col">{escape(column)}</th>'
    yield "</tr></thead><tbody>"
    for names, row in table.rows:
        yield "<tr>" + "".join(f'<th scope="row">{escape(name)}</th>' for name in names)
        for cell in row:
            mean = f"<b>{cell.mean}</b>" if cell.best else cell.mean
            error = f" <span>± {cell.error}</span>" if cell.error else ""
            yield f"<td>{mean}{error}</td>"
        yield "</tr>"
    yield f'</tbody></table></div><p class="note">{escape(table.note)}</p>'


def _settings(run: Run) -> Iterator[str]:
    versions = {f"version of {name}": of for name, of in run["versions"].items()}
    rows = {"network": run["network"], **run["settings"], **versions}
    rows["started"] = run["started"]
    yield '<div class="scroll" tabindex="0"><table><tbody>'
    for name, value in rows.items():
        text = "" if value is None else str(value)
        yield f'<tr><th scope="row">{escape(name)}</th>'
        yield f'<td class="long">{escape(text)}</td></tr>'
    yield "</tbody></table></div>"
