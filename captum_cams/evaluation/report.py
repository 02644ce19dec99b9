"""One HTML file with all of an evaluation, which needs no network to be read."""

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from captum_cams._printable import printable
from captum_cams.evaluation.figures import Drawing, Gallery
from captum_cams.evaluation.methods import parse_method
from captum_cams.evaluation.metrics import METRICS
from captum_cams.evaluation.papers import PAPERS
from captum_cams.evaluation.summary import Summary
from captum_cams.evaluation.tables import (
    VERDICT_NOTE,
    compared_methods,
    empty_message,
    picture_counts,
    run_title,
    tables,
    timings,
    verdict,
    what_was_run,
    write_text,
)
from captum_cams.visualization import blend

_RANKS = ("best", "typical", "worst")
_TEMPLATE = Path(__file__).with_name("report.html.j2")


class Case(NamedTuple):
    """A picture on which methods do best, as usual or worst, and their values."""

    rank: str
    picture: int
    target: int
    values: Mapping[str, float]


def write(
    out: Path,
    summary: Summary,
    drawings: Sequence[Drawing],
    gallery: Gallery,
) -> None:
    """
    Writes ``report.html``.

    Args:
        out (Path): The folder of results.
        summary (Summary): Of all records.
        drawings (sequence of Drawing): The figures.
        gallery (Callable): Explains a picture again; see :data:`Gallery`. It is asked
            for three pictures of each protocol, method and layer, sweeps left out.
    """
    run, shown = summary.run, cache(gallery)
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
        ran=what_was_run(summary),
        verdict=verdict(summary),
        verdict_note=VERDICT_NOTE,
        left_out=run["left_out"],
        glossary=glossary(summary),
        pictures=picture_counts(summary),
        papers=[
            _paper(summary, protocol, drawings, shown) for protocol in run["methods"]
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
    shown: Gallery,
) -> dict[str, Any]:
    """What the template shows of a paper."""
    paper = PAPERS[protocol]
    own = [one for one in drawings if one.protocol == protocol]
    drawn = {one.path.stem for one in own}
    undrawn = [of.number for of in paper.figures if of.stem not in drawn]
    return {
        "key": protocol,
        "title": paper.title,
        "empty": "" if summary.pictures[protocol] else empty_message(protocol),
        "tables": tables(summary, protocol),
        "figures": [
            {"uri": _uri("png", one.path.read_bytes()), "caption": one.caption}
            for one in own
        ],
        "undrawn": ", ".join(dict.fromkeys(undrawn)),
        "ranked_by": METRICS[paper.ranked_by].text,
        "gallery": [
            {
                "layer": layer,
                "cases": [_case(case, layer, paper.ranked_by, shown) for case in found],
            }
            for layer in summary.layers(protocol)
            if (found := cases(summary, protocol, layer))
        ],
    }


def _case(case: Case, layer: str, key: str, shown: Gallery) -> dict[str, Any]:
    """A picture, and over it the map of each method."""
    metric, images = METRICS[key], []
    for method, value in case.values.items():
        at = layer if parse_method(method).method.has_layer else ""
        picture, cam, boxes, caption = shown(case.picture, case.target, method, at)
        number = f"{metric.label} {metric.shown(value)}"
        if not cam.any():
            number += "; the map is 0 everywhere"
        under = blend(picture[None], cam[None])[0]  # (3, H, W)
        images.append({"uri": _drawn(under, boxes), "name": method, "value": number})
    plain = {"uri": _drawn(picture, boxes), "name": "the picture", "value": ""}
    images.insert(0, plain)
    return {"title": f"{case.rank}: {caption}", "images": images}


def cases(summary: Summary, protocol: str, layer: str) -> list[Case]:
    """
    The pictures of the best, the median and the worst mean of the compared methods.

    By the paper's main metric, of the pictures for which all methods that have values
    of it have one. Of equal ones the first in the records' order counts, and none is
    shown twice.
    """
    key = PAPERS[protocol].ranked_by
    found: dict[str, dict[int, float]] = {}
    for method in compared_methods(summary.run, protocol):
        values = summary.values(protocol, method, layer, key)
        if values is not None:
            found[method] = dict(zip(*(of.tolist() for of in values), strict=True))
    common = sorted(set.intersection(*map(set, found.values()))) if found else []
    if not common:
        return []
    sign = -1 if METRICS[key].higher_is_better else 1
    means = [math.fsum(of[one] for of in found.values()) for one in common]
    order = np.argsort(sign * np.array(means), kind="stable").tolist()
    chosen: dict[int, str] = {}
    for rank, place in zip(_RANKS, (0, (len(order) - 1) // 2, -1), strict=True):
        chosen.setdefault(common[order[place]], rank)
    return [
        Case(
            rank,
            *summary.example(protocol, one),
            {method: of[one] for method, of in found.items()},
        )
        for one, rank in chosen.items()
    ]


def glossary(summary: Summary) -> dict[str, str]:
    """What the run's metrics are, by the names that tables give them."""
    keys = dict.fromkeys(itertools.chain(*summary.run["metrics"].values()))
    return {
        METRICS[key].label: METRICS[key].meaning for key in keys if METRICS[key].meaning
    }


def _drawn(picture: Tensor, boxes: Tensor) -> str:
    """A picture with its boxes, as a data URI."""
    pixels = (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1)  # (H, W, 3)
    image = Image.fromarray(pixels.cpu().numpy())
    draw = ImageDraw.Draw(image)
    for box in boxes.tolist():
        draw.rectangle(box, outline="white", width=max(1, image.width // 100))
    file = io.BytesIO()
    image.save(file, format="jpeg", quality=88)
    return _uri("jpeg", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
