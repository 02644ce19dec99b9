"""
The papers' experiments as data: pictures, methods, metrics, tables, figures, settings.

:data:`PAPERS` is what a run does and shows; :data:`SETTINGS` says where the papers
print each number in it, or that it is our choice.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from captum_cams.evaluation.metrics import (
    CURVE_STEPS,
    EPS,
    MODES,
    NORMALIZE_EPS,
    RANDOMIZATION,
    THRESHOLDS,
    TOP,
)


class Candidate(NamedTuple):
    """A picture and one of the classes it shows, as its annotation says."""

    right: bool
    """Whether the network gives the class the highest output."""
    boxes: int
    """The number of boxes around objects of all classes, as stored."""
    share: float
    """The share of the stored picture's area in the boxes of the class."""


@dataclass(frozen=True)
class Sweep:
    """A method with several values of one of its arguments."""

    method: str
    argument: str
    values: tuple[float, ...]
    default: float
    label: str
    few: tuple[float, ...]
    """Of them those that the package's own pictures are tried with."""

    def labels(self, most: float = float("inf"), few: bool = False) -> dict[float, str]:
        """The method's name at each value, or at a few, up to `most`."""
        return {
            value: self.method
            if value == self.default
            else f"{self.method}({self.argument}={value:g})"
            for value in (self.few if few else self.values)
            if value <= most
        }


GROUPS = Sweep(
    "group-cam",
    "groups",
    (1, 4, 8, 16, 32, 64, 128, 256),
    32,
    "groups",
    few=(1, 8, 32),
)
PERCENTILES = Sweep(
    "group-cam",
    "denoise_percentile",
    (*range(0, 100, 10),),
    70,
    "theta, percentile",
    few=(0, 70, 90),
)
SWEEPS = (GROUPS, PERCENTILES)


@dataclass(frozen=True)
class Table:
    """
    A table of means.

    Args:
        title (str): With the paper's number of it.
        metrics (tuple of str): Keys of ``METRICS``.
        rows (str): ``metrics``: one row a metric, ``at``: one for each number of the
            one metric, ``classes``: one for each class and metric. Default: ``metrics``
        sweep (Sweep, optional): Its values are the rows, the metrics the columns.
        mean_over_classes (bool): Whether a row gives each class the same weight.
        printed (dict): What the paper prints, by its network and pictures, metric and
            method, in the units of the table.
    """

    title: str
    metrics: tuple[str, ...]
    rows: Literal["metrics", "at", "classes"] = "metrics"
    sweep: Sweep | None = None
    mean_over_classes: bool = False
    printed: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None


@dataclass(frozen=True)
class Figure:
    """
    A figure of the numbers, or of maps.

    Args:
        kind (str): How :mod:`captum_cams.evaluation.figures` draws it.
        stem (str): Of its file.
        number (str): Such as "Fig. 13".
        metrics (tuple of str): Keys of ``METRICS``, one of which is needed; none for
            maps.
        caption (str): What it shows.
        layer (int, optional): 1 for the last layer of the run, 2 for the one before.
            Default: None, for all
        sweep (Sweep, optional): Whose values are on the x axis.
        methods (tuple of str): Whose maps are shown. Default: those that are compared
        eps (float, optional): With which maps are normalized. Default: None, each is
            scaled by its own maximum
    """

    kind: Literal[
        "boxes", "dark", "rolling", "curves", "sweep", "sanity", "maps", "sanity-maps"
    ]
    stem: str
    number: str
    metrics: tuple[str, ...]
    caption: str
    layer: int | None = None
    sweep: Sweep | None = None
    methods: tuple[str, ...] = ()
    eps: float | None = None


@dataclass(frozen=True)
class Paper:
    """
    What a paper does.

    Args:
        title (str): Its method.
        wants (Callable): Whether it takes a picture.
        pictures (str): The same in words.
        methods (tuple of str): What it compares, as ``parse_method`` reads them.
        ranked_by (str): The metric by which maps are best, typical or worst.
        tables (tuple of Table): Its tables.
        figures (tuple of Figure): Its figures.
    """

    title: str
    wants: Callable[[Candidate], bool]
    pictures: str
    methods: tuple[str, ...]
    ranked_by: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """All that its tables and figures show."""
        shown = [one.metrics for one in self.tables]
        shown += [one.metrics for one in self.figures]
        return tuple(dict.fromkeys(itertools.chain(*shown)))


_RSI = "rsi-grad-cam(weighting='selected')"
_DROP, _INCREASE = "average_drop(eps=1e-08)", "increase_in_confidence(eps=1e-08)"
_ENERGY = "pixel_energy(normalize)"
_OVERLAP = tuple(f"box_overlap.{ratio}" for ratio in ("iou", "iob", "ior"))
_TABLE_1 = (  # of Integrated Grad-CAM
    "pixel_energy",
    "bbox_score",
    "average_drop(top_fraction=0.15)",
    "increase_in_confidence(top_fraction=0.15)",
)
_AREAS = ("insertion_auc", "deletion_auc", "overall")
_LIKENESS = {"spearman_magnitude": "|Spearman|", "ssim": "SSIM"}
"""Of the sanity check; a map turned over shows the same, so signs do not count."""
_MAPS = "Maps of the first pictures"


def _printed(
    methods: tuple[str, ...], rows: Mapping[str, tuple[float, ...]]
) -> dict[str, dict[str, float]]:
    return {key: dict(zip(methods, row, strict=True)) for key, row in rows.items()}


_IGC_PICTURES = "the 4,952 test pictures of VOC 2007"
_IGC_METHODS = ("grad-cam", "grad-cam-plus-plus", "integrated-grad-cam")
_GROUP_METHODS = (
    "grad-cam",
    "grad-cam-plus-plus",
    "rise",
    "xrai",
    "score-cam",
    "group-cam",
)
_TABLE_2 = (  # insertion, deletion, over-all by number of groups
    (61.72, 64.27, 64.94, 65.38, 65.48, 65.77, 65.81, 65.84),
    (11.21, 11.21, 11.29, 11.34, 11.31, 11.31, 11.29, 11.28),
    (50.51, 53.07, 53.65, 54.04, 54.17, 54.46, 54.52, 54.56),
)
PRINTED_SECONDS = {
    "rise": 38.23, "xrai": 42.17, "grad-cam": 0.03, "score-cam": 2.46, "group-cam": 0.09
}  # fmt: skip
"""Of Group-CAM's Table 3: a picture of ImageNet, on one GeForce 2080 Ti."""

FIG_2 = (
    "guided-backprop",
    "integrated-gradients",
    "smooth-grad",
    "rise",
    "xrai",
    "grad-cam",
    "score-cam",
    "group-cam",
)
"""Methods whose maps Group-CAM shows; not all are in its tables."""

PAPERS: dict[str, Paper] = {
    "rsi": Paper(
        "RSI-Grad-CAM",
        lambda one: one.right and one.boxes == 1 and 0 < one.share < 0.5,
        "those that the network gets right, with one box that covers less than half "
        "of the picture (section 4.3.1)",
        ("positive-grad-cam", "integrated-grad-cam", _RSI),
        _DROP,
        (
            Table(
                "Numerical stability (Fig. 13-14)",
                ("heatmap_mean", "heatmap_mean(normalize)"),
            ),
            Table(
                "Faithfulness and localization (Fig. 16, 17, 19)",
                (_DROP, _INCREASE, _ENERGY),
            ),
            Table("Overlap of box and map (Fig. 20, 21): IoU", _OVERLAP[:1], "at"),
            Table("Overlap of box and map (Fig. 20, 21): IoB", _OVERLAP[1:2], "at"),
            Table("Overlap of box and map (Fig. 20, 21): IoR", _OVERLAP[2:], "at"),
            Table("Dark heat maps by eps (Fig. 15)", ("dark_heatmaps",), "at"),
            Table(
                "Mean probability of pictures with a dark map, by eps (Fig. 15)",
                ("dark_heatmaps.probability",),
                "at",
            ),
        ),
        (
            Figure("maps", "rsi-maps", "Fig. 8-11", (), _MAPS, eps=NORMALIZE_EPS),
            Figure(
                "boxes",
                "rsi-heatmap-means-before",
                "Fig. 13",
                ("heatmap_mean",),
                "Heat-map means before normalizing",
            ),
            Figure(
                "boxes",
                "rsi-heatmap-means-after",
                "Fig. 14",
                ("heatmap_mean(normalize)",),
                "Heat-map means after normalizing",
            ),
            Figure(
                "dark",
                "rsi-dark-heatmaps",
                "Fig. 15",
                ("dark_heatmaps", "dark_heatmaps.probability"),
                "Number of dark heat maps against eps, and the mean probability of "
                "their pictures",
            ),
            Figure(
                "rolling",
                "rsi-confidence-last",
                "Fig. 16",
                (_DROP, _INCREASE),
                "Average drop and increase in confidence at the last block",
                1,
            ),
            Figure(
                "rolling",
                "rsi-confidence-before-last",
                "Fig. 17",
                (_DROP, _INCREASE),
                "Average drop and increase in confidence at the block before the last",
                2,
            ),
            Figure(
                "rolling",
                "rsi-energy",
                "Fig. 19",
                (_ENERGY,),
                "Energy in the box",
            ),
            Figure(
                "rolling",
                "rsi-overlap-last",
                "Fig. 20",
                _OVERLAP,
                "Overlap of box and map above a threshold at the last block",
                1,
            ),
            Figure(
                "rolling",
                "rsi-overlap-before-last",
                "Fig. 21",
                _OVERLAP,
                "Overlap of box and map above a threshold at the block before the last",
                2,
            ),
        ),
    ),
    "igc": Paper(
        "Integrated Grad-CAM",
        lambda one: one.share > 0,
        "those with boxes",
        _IGC_METHODS,
        "pixel_energy",
        (
            Table(
                "Localization and faithfulness (Table 1)",
                _TABLE_1,
                printed={
                    f"VGG-16 on {_IGC_PICTURES}": _printed(
                        _IGC_METHODS,
                        {
                            _TABLE_1[0]: (55.44, 46.29, 55.94),
                            _TABLE_1[1]: (51.7, 55.59, 55.6),
                            _TABLE_1[2]: (49.47, 60.63, 47.96),
                            _TABLE_1[3]: (31.08, 23.89, 31.47),
                        },
                    ),
                    f"ResNet-50 on {_IGC_PICTURES}": _printed(
                        _IGC_METHODS,
                        {
                            _TABLE_1[0]: (60.08, 47.78, 60.41),
                            _TABLE_1[1]: (60.25, 58.66, 61.94),
                            _TABLE_1[2]: (35.80, 41.77, 34.49),
                            _TABLE_1[3]: (36.58, 32.15, 36.84),
                        },
                    ),
                },
            ),
            Table("Table 1 by class", _TABLE_1, "classes"),
        ),
        (Figure("maps", "igc-maps", "Fig. 1, 3", (), _MAPS),),
    ),
    "group-cam": Paper(
        "Group-CAM",
        lambda one: True,
        "all",
        _GROUP_METHODS,
        "overall",
        (
            Table(
                "Insertion and deletion (Table 1)",
                _AREAS,
                printed={
                    "VGG-19 on 10,000 pictures of ImageNet": _printed(
                        _GROUP_METHODS,
                        {
                            "insertion_auc": (63.06, 62.38, 63.76, 53.36, 64.75, 64.91),
                            "deletion_auc": (11.97, 12.43, 11.91, 10.90, 11.47, 11.29),
                            "overall": (51.09, 49.95, 51.85, 42.46, 53.28, 53.62),
                        },
                    )
                },
            ),
            Table(
                "Group-CAM by number of groups (Table 2)",
                _AREAS,
                sweep=GROUPS,
                printed={
                    "VGG-19 on 5,000 pictures of ImageNet": _printed(
                        (*GROUPS.labels().values(),),
                        dict(zip(_AREAS, _TABLE_2, strict=True)),
                    )
                },
            ),
            Table(
                "Group-CAM by de-noising percentile theta (Fig. 5)",
                _AREAS,
                sweep=PERCENTILES,
            ),
            Table(
                "Pointing game by class (Table 4)",
                ("pointing_game",),
                "classes",
                mean_over_classes=True,
                printed={
                    "ResNet-50 on COCO's val2017": _printed(
                        _GROUP_METHODS,
                        {"pointing_game": (56.7, 57.2, 54.3, 55.1, 51.0, 57.5)},
                    )
                },
            ),
            *(
                Table(
                    f"Sanity check, {mode} randomization (Fig. 6): {name}",
                    (f"{RANDOMIZATION}.{mode}.{key}",),
                    "at",
                )
                for mode in MODES
                for key, name in _LIKENESS.items()
            ),
        ),
        (
            Figure(
                "maps",
                "group-cam-maps",
                "Fig. 2-3",
                (),
                _MAPS,
                methods=FIG_2,
            ),
            Figure(
                "curves",
                "group-cam-curves",
                "Fig. 4",
                ("insertion_curve", "deletion_curve"),
                "Mean insertion and deletion curves",
            ),
            Figure(
                "sweep",
                "group-cam-groups",
                "Table 2",
                _AREAS,
                "Group-CAM by number of groups",
                sweep=GROUPS,
            ),
            Figure(
                "sweep",
                "group-cam-theta",
                "Fig. 5",
                _AREAS,
                "Group-CAM by de-noising percentile theta",
                sweep=PERCENTILES,
            ),
            *(
                Figure(
                    "sanity",
                    f"group-cam-sanity-{mode}-{key.partition('_')[0]}",
                    "Fig. 6",
                    (f"{RANDOMIZATION}.{mode}.{key}",),
                    f"Sanity check, {mode} randomization: {name} of the maps before "
                    "and after layers lose their weights",
                )
                for mode in MODES
                for key, name in _LIKENESS.items()
            ),
            *(
                Figure(
                    "sanity-maps",
                    f"group-cam-sanity-{mode}-maps",
                    "Fig. 6",
                    tuple(f"{RANDOMIZATION}.{mode}.{key}" for key in _LIKENESS),
                    f"Sanity check, {mode} randomization: maps before and after layers "
                    "lose their weights",
                )
                for mode in MODES
            ),
        ),
    ),
}

FOR_SHAPES = {"rise": "rise(n_masks=200)"}
"""What is done instead with the package's own pictures, so that it takes minutes."""
SHOWN_PICTURES = 4
"""The first so many are shown with all maps, of which the papers chose theirs."""
SHOWN_SHAPES = 2
"""The first so many of the package's own pictures."""
SHOWN_CLASSES = 2
"""Of a shown picture, where it is explained for several."""
SHOWN_LAYERS = 8
"""Randomized ones after which maps are shown; evenly chosen of more."""
SANITY_OF = ("grad-cam", "group-cam")
"""Methods that are explained again for each randomized layer; others where asked."""


@dataclass(frozen=True)
class Preset:
    """
    The set-up of a paper's experiments: what a run does that asks for nothing else.

    Args:
        settings (dict): Arguments of :func:`captum_cams.evaluation.evaluate`.
        differs (str): How that is not the paper's own set-up.
    """

    settings: Mapping[str, Any]
    differs: str


PRESETS: dict[str, Preset] = {
    "rsi-grad-cam": Preset(
        {
            "protocol": "rsi",
            "dataset": "imagenet",
            "model": "vgg19",
            "weights": "DEFAULT",
            "layers": ("features.27", "features.36"),  # block4_pool and block5_pool
            "explain": "probabilities",
            "target": "predicted",
        },
        "torchvision's weights of VGG-19 in the place of Keras'",
    ),
    "integrated-grad-cam": Preset(
        {
            "protocol": "igc",
            "dataset": "voc",
            "split": "2007-test",
            "explain": "logits",
            "target": "label",
        },
        "the paper's networks were trained on VOC 2007 by J. Zhang et al.: give a "
        "model of your own with 20 outputs, and its layers",
    ),
    "group-cam": Preset(
        {
            "protocol": "group-cam",
            "dataset": "imagenet",
            "model": "vgg19",
            "weights": "DEFAULT",
            "layers": ("features.35",),  # the last ReLU, as in the authors' code
            "limit": 10_000,
            "explain": "logits",
            "target": "predicted",
        },
        "pictures of other random numbers, and inputs normalized by mean and standard "
        "deviation as torchvision's weights want them",
    ),
}


FINE_TUNING = "group-cam-fine-tuning"
"""The training of Group-CAM's section 5, a command of its own."""


class Setting(NamedTuple):
    """A number or choice of the experiments, and where a paper has it."""

    paper: str
    what: str
    value: object
    source: str
    """Where the paper prints it, or "our choice", and why."""


OUR_CHOICE = "our choice"

SETTINGS = (
    Setting("rsi", "eps of eq. 26", NORMALIZE_EPS, "section 4.3.2"),
    Setting("rsi", "eps of Fig. 15", EPS, f"{OUR_CHOICE}: its range is not printed"),
    Setting(
        "rsi",
        "thresholds of Fig. 20-21",
        THRESHOLDS,
        f"{OUR_CHOICE}: they are not printed",
    ),
    Setting("rsi", "weighting", "selected", "section 4.1"),
    Setting("rsi", "Grad-CAM", "positive-grad-cam", "eq. 2, section 4.1"),
    Setting("rsi", "methods", PAPERS["rsi"].methods, "section 4.1"),
    Setting("rsi", "pictures", PAPERS["rsi"].pictures, "section 4.3.1"),
    Setting("rsi", "baseline", "black", "section 4.2"),
    Setting("rsi", "n_steps", 50, f"{OUR_CHOICE}: authors' notebook"),
    Setting("rsi", "window of rolling means", 1000, "Fig. 16"),
    Setting("igc", "share of pixels of drop and increase", TOP, "eq. 7-8"),
    Setting("igc", "methods", PAPERS["igc"].methods, "Table 1"),
    Setting("igc", "n_steps", 50, "section 4"),
    Setting("igc", "baseline", "black", "its method's section"),
    Setting("group-cam", "share of pixels a step", 1 / CURVE_STEPS, "section 4.3"),
    Setting("group-cam", "baseline of both curves", "blurred", "section 4.3"),
    Setting("group-cam", "blur", (51, 50), f"{OUR_CHOICE}: authors' code"),
    Setting("group-cam", "methods", PAPERS["group-cam"].methods, "Table 1"),
    Setting("group-cam", "groups", GROUPS.values, "Table 2"),
    Setting("group-cam", "theta", PERCENTILES.values, f"{OUR_CHOICE}: Fig. 5 has axes"),
    Setting("group-cam", "tolerance of the pointing game", 0, "section 4.4"),
    Setting("group-cam", "sanity check", MODES, "section 4.5"),
    Setting(
        "group-cam",
        "similarity of the sanity check",
        (*_LIKENESS.values(),),
        f"{OUR_CHOICE}: section 4.5 shows pictures alone",
    ),
    *(
        Setting(
            name,
            "pictures whose maps are shown",
            SHOWN_PICTURES,
            f"{OUR_CHOICE}: the first, where the paper chose its own",
        )
        for name in PAPERS
    ),
    Setting("group-cam", "methods whose maps are shown", FIG_2, "Fig. 2"),
    Setting(
        "group-cam",
        "randomized layers whose maps are shown",
        SHOWN_LAYERS,
        f"{OUR_CHOICE}: the number in Fig. 6 is not in the text",
    ),
    Setting("group-cam", "masks of RISE", 4000, f"{OUR_CHOICE}: not printed"),
    Setting(FINE_TUNING, "model", "resnet50", "section 5"),
    Setting(
        FINE_TUNING,
        "weights",
        "IMAGENET1K_V1",
        f"{OUR_CHOICE}: those of torchvision with the top-1 that section 5 prints",
    ),
    Setting(FINE_TUNING, "top-1 in %", (76.15, 76.74), "section 5, Fig. 7"),
    Setting(FINE_TUNING, "epochs", 20, "section 5"),
    Setting(FINE_TUNING, "batch_size", 256, "section 5"),
    Setting(FINE_TUNING, "learning_rate", 1e-3, "section 5"),
    Setting(FINE_TUNING, "epochs at a learning rate", 15, "section 5"),
    Setting(FINE_TUNING, "divisor of the learning rate", 10, "section 5"),
    Setting(FINE_TUNING, "momentum", 0.9, "section 5"),
    Setting(FINE_TUNING, "weight decay", 1e-4, "section 5"),
    Setting(FINE_TUNING, "groups", 16, "section 5"),
    Setting(FINE_TUNING, "shorter side and crop in tests", (256, 224), "section 5"),
    Setting(FINE_TUNING, "epochs between maps", 5, "Fig. 8"),
    Setting(
        FINE_TUNING,
        "training pictures",
        "RandomResizedCrop, RandomHorizontalFlip",
        f"{OUR_CHOICE}: authors' code",
    ),
    Setting(FINE_TUNING, "control run", True, f"{OUR_CHOICE}: section 5 has none"),
)
