"""One HTML file with all of an evaluation, which needs no network to be read."""

import base64
import io
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from captum_cams._printable import printable
from captum_cams.evaluation.figures import Drawing, Gallery
from captum_cams.evaluation.metrics import METRICS, value_of
from captum_cams.evaluation.papers import PAPERS
from captum_cams.evaluation.records import Record, Run
from captum_cams.evaluation.summary import Summary, protocols_of
from captum_cams.evaluation.tables import (
    compared_methods,
    empty_message,
    picture_counts,
    run_title,
    tables,
    timings,
    write_text,
)
from captum_cams.visualization import panel

_RANKS = ("best", "typical", "worst")
_TEMPLATE = Path(__file__).with_name("report.html.j2")


class _Case(NamedTuple):
    """The best, the typical or the worst map by a metric."""

    rank: str
    value: float
    picture: int
    target: int


def write(
    out: Path,
    summary: Summary,
    records: Iterable[Record],
    drawings: Sequence[Drawing],
    gallery: Gallery,
) -> None:
    """
    Writes ``report.html``.

    Args:
        out (Path): The folder of results.
        summary (Summary): Of all records.
        records (iterable of Record): In the order of :class:`Records`.
        drawings (sequence of Drawing): The figures.
        gallery (Callable): Explains a picture again; see :data:`Gallery`. It is asked
            for three pictures of each protocol, method and layer, sweeps left out.
    """
    run, shown = summary.run, cache(_shown(gallery))
    chosen = cases(run, records)
    versions = {f"version of {name}": of for name, of in run["versions"].items()}
    settings = {"network": run["network"], **run["settings"], **versions}
    settings["started"] = run["started"]
    # File names and class names may hold anything: all is escaped.
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda part: printable(part) if type(part) is str else part,
    )
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    page = template.render(
        title=run_title(run),
        pictures=picture_counts(summary),
        papers=[
            _paper(summary, protocol, drawings, chosen, shown)
            for protocol in run["methods"]
        ],
        time=timings(summary),
        settings={
            name: "" if value is None else str(value)
            for name, value in settings.items()
        },
    )
    write_text(out / "report.html", page + "\n")


def _paper(
    summary: Summary,
    protocol: str,
    drawings: Sequence[Drawing],
    chosen: Mapping[tuple[str, str, str], Sequence[_Case]],
    shown: Callable[[int, int, str, str], tuple[str, str]],
) -> dict[str, Any]:
    """What the template shows of a paper."""
    paper = PAPERS[protocol]
    return {
        "key": protocol,
        "title": paper.title,
        "empty": "" if summary.pictures[protocol] else empty_message(protocol),
        "tables": tables(summary, protocol),
        "figures": [
            {"uri": _uri("png", one.path.read_bytes()), "caption": one.caption}
            for one in drawings
            if one.protocol == protocol
        ],
        "ranked_by": METRICS[paper.ranked_by].text,
        "gallery": [
            {
                "method": method,
                "layer": layer,
                "cases": [*_gallery(found, method, layer, paper.ranked_by, shown)],
            }
            for method in summary.run["methods"][protocol]
            for layer in ["", *summary.run["layers"]]
            if (found := chosen.get((protocol, method, layer)))
        ],
    }


def _gallery(
    found: Sequence[_Case],
    method: str,
    layer: str,
    key: str,
    shown: Callable[[int, int, str, str], tuple[str, str]],
) -> Iterator[dict[str, str]]:
    metric = METRICS[key]
    for rank, value, index, target in found:
        uri, caption = shown(index, target, method, layer)
        number = f"{metric.label} {metric.write(value)}{metric.unit}"
        yield {"uri": uri, "caption": f"{rank}, {number}: {caption}, by {method}"}


def cases(
    run: Run, records: Iterable[Record]
) -> dict[tuple[str, str, str], list[_Case]]:
    """
    The best, the median and the worst map by the paper's main metric.

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
            value = value_of(record, PAPERS[protocol].ranked_by)
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
    sign = -1 if METRICS[PAPERS[protocol].ranked_by].higher_is_better else 1
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
