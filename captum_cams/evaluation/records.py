"""
What an evaluation writes down: one JSON object a line, closed batch by batch.

A folder of results holds ``run.json``, a :class:`Run`, and for each process
``results-RANK.jsonl``. A line of the latter is one of

- :class:`Explained`: one picture, target, layer and method with its metrics,
- :class:`Unused`: a picture that passes no protocol's filter,
- :class:`Skipped`: a picture that could not be read or explained, and why,
- ``{"batch": 3}``, which closes the batch whose lines came before it. Lines that no
  such line follows are of an interrupted batch, which is redone.

:class:`Records` reads them back in the order of the pictures, whoever wrote them: an
iterable that may be passed over any number of times and holds one batch in memory.
Its order is fixed: index, then target, layer and method as :class:`Run` lists them.

Values of metrics are under their keys in ``captum_cams.evaluation.metrics.METRICS``:
the functions' names, with arguments that are not the default in parentheses, behind a
dot what they give several of. NaN is null. A metric is there where a protocol of the
record asks for it of this method; what a record does not have, such as the curves of a
sweep, is absent, not null.
"""

from typing import TypeAlias, TypedDict, final

FORMAT = 4
"""The version of all this; other versions cannot be read, and must not go on."""

Value: TypeAlias = float | list[float | None] | None


@final
class Explained(TypedDict):
    """The metrics of one map."""

    index: int
    """The picture's index in the data set."""
    picture: str
    """Its file's name, for people."""
    digest: str
    """Of the picture's file and its annotation."""
    left_out: dict[str, int]
    """Boxes of the annotation that are not used, by the reason."""
    target: int
    """The explained class, an index of the model's output. A picture may have several
    (VOC, COCO), each with records of its own."""
    category: str
    """The class' name."""
    probability: float
    """Of the target, in [0, 1]."""
    protocols: list[str]
    """Those whose filter picture and target pass: of ``rsi``, ``igc``, ``group-cam``.
    Only those of the run."""
    method: str
    """A name of the registry, such as ``rsi-grad-cam``, with arguments where these are
    not the default: ``rise(n_masks=500)``; for the ablations ``group-cam(groups=8)``
    and ``group-cam(denoise_percentile=50)``."""
    layer: str
    """Dotted name. Methods without a layer (``rise``, ``xrai``) have ``""``."""
    values: dict[str, Value]
    """By the names above."""
    explained_in: int
    """The batch that it was explained with. All maps of a method, a layer and a batch
    are one sample of the two costs below."""
    seconds: float
    """A picture's share of the time of the batch, for the map alone."""
    passes: float
    """Its share of the inputs that went through the network for that."""


@final
class Unused(TypedDict):
    """A picture that was read and that no protocol wants."""

    index: int
    picture: str
    digest: str
    left_out: dict[str, int]
    protocols: list[str]
    """Empty."""


@final
class Skipped(TypedDict):
    """A picture without results."""

    index: int
    picture: str
    digest: str
    skipped: str
    """One sentence: why."""


Record: TypeAlias = Explained | Unused | Skipped


class Run(TypedDict):
    """
    What ``run.json`` holds: all but `notes`, `left_out` and `started` must stay when a
    run goes on.
    """

    format: int
    """Of the records: :data:`FORMAT`."""
    settings: dict[str, object]
    """All that can change a result, by the arguments' names: ``dataset``, ``root``,
    ``model``, ``weights``, ``size``, ``limit``, ``batch_size``, ``seed`` and so on, and
    what the files held."""
    network: str
    """The model's name, for headings."""
    pictures: list[str]
    """The names of those of the data set (after ``limit``), in their order."""
    shown: list[str]
    """The data set's classes; empty where they are the model's outputs."""
    notes: list[str]
    """Sentences on what the data set left out, and on how its classes were matched with
    the model's outputs."""
    left_out: list[str]
    """Sentences on methods and metrics that the papers have and the run has not, as
    something is missing that they need; each with the remedy."""
    methods: dict[str, list[str]]
    """For each protocol of the run its methods, ablations last, in the order of the
    tables."""
    metrics: dict[str, list[str]]
    """For each protocol of the run the keys of its metrics."""
    layers: list[str]
    """Dotted names, from the input to the output."""
    classes: list[str]
    """Names of the model's outputs; empty where unknown."""
    eps: list[float]
    """Of ``dark_heatmaps``, ascending."""
    thresholds: list[float]
    """Of ``box_overlap``, ascending."""
    curve_steps: int
    """Of the insertion and deletion curves."""
    randomized: list[str]
    """Layers of ``randomization_check``, in the order they lose their weights."""
    versions: dict[str, str]
    """Of Python and the libraries."""
    started: str
    """ISO 8601, UTC."""
