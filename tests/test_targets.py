"""Scores of segmentations, detections, embeddings, contrasts and distances."""

import math
import re
import warnings
from collections import OrderedDict

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_mobilenet_v3_large_320_fpn,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large, fcn_resnet50
from torchvision.ops import MultiScaleRoIAlign

from captum_cams import (
    GroupCam,
    LayerIntegratedGradCam,
    LayerRSIGradCam,
    Rise,
    ScoreCam,
    metrics,
)
from captum_cams.module_search import find_modules
from captum_cams.targets import (
    ClassContrast,
    DetectionScore,
    EmbeddingSimilarity,
    NegativeDistance,
    SegmentationScore,
)
from tests.models import Function, TwoPart, network, random

X = random(3, 2, 8, 8)


def segmenter(seed=0):
    """Scores of 3 classes at the input's size."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = nn.Sequential(nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.Tanh())
        head = nn.Sequential(
            nn.Conv2d(6, 3, 3, padding=1), nn.Upsample(scale_factor=2, mode="bilinear")
        )
        return TwoPart(layer, head).double().eval()


class Pooled(nn.Module):
    """A box head that looks at the pooled features directly."""

    def __init__(self, channels):
        super().__init__()
        self.linear = nn.Linear(channels * 9, 16)

    def forward(self, x):
        return torch.tanh(self.linear(x.flatten(1)))


def detector(seed=0):
    """A faster R-CNN of random weights, small enough to be quick."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = nn.Sequential(
            OrderedDict(
                layer=nn.Sequential(nn.Conv2d(3, 6, 5, stride=4, padding=2), nn.Tanh())
            )
        )
        backbone.out_channels = 6
        model = FasterRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator(((8, 16, 24),), ((0.5, 1.0, 2.0),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2),
            box_head=Pooled(6),
            box_predictor=BoxPredictor(16, 3),
            min_size=32,
            max_size=32,
            box_score_thresh=0.0,
            rpn_post_nms_top_n_test=30,
        )
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.double().eval()


class BoxPredictor(nn.Module):
    def __init__(self, features, classes):
        super().__init__()
        self.scores = nn.Linear(features, classes)
        self.boxes = nn.Linear(features, 4 * classes)

    def forward(self, x):
        return self.scores(x), 0.1 * self.boxes(x)


PICTURES = random(3, 3, 32, 32, seed=1).sigmoid()


def found_by(model, rank=0):
    """Boxes and labels of what a detector finds in the pictures."""
    with torch.no_grad():
        found = model(list(PICTURES))
    boxes = torch.stack([f["boxes"][rank] for f in found])
    return boxes, torch.stack([f["labels"][rank] for f in found])


def cases():
    """Each score, its layer, inputs, references and target."""
    model = segmenter()
    regions = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(2))
    yield "mean", SegmentationScore(model), model.layer, X, (regions,), [0, 2, 1]
    score = SegmentationScore(model, reduction="sum")
    yield "sum", score, model.layer, X, (regions > 0.5,), 2
    model = detector()
    score, layer = DetectionScore(model), model.backbone.layer
    yield "detection", score, layer, PICTURES, found_by(model), None
    model = network(softmax=False)
    embeddings = random(3, 3, seed=3)
    score = EmbeddingSimilarity(model)
    yield "embedding", score, model.layer, X, (embeddings,), None
    others = torch.tensor([2, 0, 1])
    yield "contrast", ClassContrast(model), model.layer, X, (others,), [0, 2, 0]
    values = torch.tensor([5.0, -5.0, 0.125])
    yield "distance", NegativeDistance(model), model.layer, X, (values,), 1


CASES = {name: rest for name, *rest in cases()}
ATTRIBUTIONS = {
    "rsi": (LayerRSIGradCam, {"n_steps": 4}),
    "igc": (LayerIntegratedGradCam, {"n_steps": 4}),
    "tolerance": (LayerRSIGradCam, {"tolerance": 0.2, "n_steps": 20}),
    "group-cam": (GroupCam, {"groups": 3, "baselines": 0}),
    "score-cam": (ScoreCam, {"baselines": 0}),
    "grad-cam": (LayerGradCam, {}),
}


def row(target, n):
    return target[n] if isinstance(target, list) else target


@pytest.mark.filterwarnings("ignore:the map is 0", "ignore:tolerance 0.2 was not met")
@pytest.mark.parametrize("method", ATTRIBUTIONS)
@pytest.mark.parametrize("name", CASES)
def test_a_batch_is_its_examples_one_by_one(name, method):
    """References follow their rows, wherever a method repeats them."""
    score, layer, inputs, references, target = CASES[name]
    kind, options = ATTRIBUTIONS[method]
    method = kind(score, layer)
    maps = method.attribute(
        inputs, target=target, additional_forward_args=references, **options
    )
    assert name == "detection" or (maps != 0).any()
    for n in range(3):
        single = method.attribute(
            inputs[n : n + 1],
            target=row(target, n),
            additional_forward_args=tuple(r[n : n + 1] for r in references),
            **options,
        )
        torch.testing.assert_close(maps[n : n + 1], single)


@pytest.mark.parametrize("name", CASES)
def test_grad_cam_of_a_score_is_that_of_its_gradient(name):
    score, layer, inputs, references, target = CASES[name]
    maps = LayerGradCam(score, layer).attribute(inputs, target, references)
    for n in range(3):
        kept = []
        handle = layer.register_forward_hook(lambda *given: kept.append(given[-1]))  # noqa: B023
        y = score(inputs[n : n + 1], *(r[n : n + 1] for r in references))
        handle.remove()
        y = y[0] if target is None else y[0, row(target, n)]
        (A,) = kept
        (gradient,) = torch.autograd.grad(y, A)
        assert (gradient != 0).any()
        expected = (gradient.mean((2, 3), keepdim=True) * A).sum(1, keepdim=True)
        torch.testing.assert_close(maps[n : n + 1], expected)


@pytest.mark.parametrize("name", CASES)
def test_metrics_take_scores(name):
    score, _, inputs, references, target = CASES[name]
    maps = random(3, 1, 4, 4, seed=5)
    rows = [slice(n, n + 1) for n in range(3)]
    options = {
        metrics.insertion_auc: {"n_steps": 4, "baselines": 0},
        metrics.deletion_auc: {"n_steps": 4, "baselines": 0},
        metrics.increase_in_confidence: {},
        metrics.average_drop: {},
    }
    for metric, more in options.items():
        values = metric(
            score,
            inputs,
            maps,
            target=target,
            additional_forward_args=references,
            **more,
        )
        singles = [
            metric(
                score,
                inputs[part],
                maps[part],
                target=row(target, n),
                additional_forward_args=tuple(r[part] for r in references),
                **more,
            )
            for n, part in enumerate(rows)
        ]
        torch.testing.assert_close(values, torch.cat(singles), equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_captum_expands_references_with_the_steps(name):
    score, _, inputs, references, target = CASES[name]
    method = IntegratedGradients(score)
    arguments = {"additional_forward_args": references, "n_steps": 3}
    values = method.attribute(inputs, target=target, **arguments)
    for n in range(3):
        single = method.attribute(
            inputs[n : n + 1],
            target=row(target, n),
            additional_forward_args=tuple(r[n : n + 1] for r in references),
            n_steps=3,
        )
        torch.testing.assert_close(values[n : n + 1], single)


@pytest.mark.parametrize("name", CASES)
def test_one_reference_serves_all_examples(name):
    score, layer, inputs, references, target = CASES[name]
    one = tuple(r[:1] for r in references)
    repeated = tuple(r[:1].repeat(3, *[1] * (r.dim() - 1)) for r in references)
    if name == "detection":  # no picture of which the others have the same box
        inputs = inputs[:1].repeat(3, 1, 1, 1)
    for kind, options in (
        (LayerRSIGradCam, {"n_steps": 2}),
        (GroupCam, {"groups": 2, "baselines": 0}),
    ):
        method = kind(score, layer)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the map is 0")
            maps = [
                method.attribute(
                    inputs, target=target, additional_forward_args=r, **options
                )
                for r in (one, repeated)
            ]
        torch.testing.assert_close(*maps)


def test_rise_takes_scores():
    score, _, inputs, references, target = CASES["detection"]
    maps = Rise(score).attribute(
        inputs, target=target, additional_forward_args=references, n_masks=20
    )
    assert maps.shape == (3, 1, 32, 32) and (maps > 0).any()


# Values by hand and by slow loops.


def test_segmentation_by_hand():
    output = torch.arange(8.0).view(1, 2, 2, 2)  # classes 0 1 2 3 and 4 5 6 7
    regions = torch.tensor([[[True, False], [False, True]]])
    for forward in (lambda x: x, lambda x: {"out": x, "aux": -x}):
        mean, total = (
            SegmentationScore(forward, reduction=reduction)(output, regions)
            for reduction in ("mean", "sum")
        )
        assert mean.tolist() == [[1.5, 5.5]] and total.tolist() == [[3.0, 11.0]]
    weights = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    weighted = SegmentationScore(lambda x: x)(output, weights)
    torch.testing.assert_close(weighted, torch.tensor([[1 / 3, 4 + 1 / 3]]))
    share = SegmentationScore(lambda x: x, output_func=lambda y: y.softmax(1))
    expected = 1 / (1 + math.exp(4))
    torch.testing.assert_close(share(output, regions)[0, 0].item(), expected)


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_segmentation_is_a_loop_over_pixels(seed, dims):
    output = random(2, 3, *[4] * dims, seed=seed)
    regions = random(2, *[4] * dims, seed=seed + 1) > 0
    regions.view(2, -1)[:, 0] = True
    scores = SegmentationScore(lambda x: x)(output, regions)
    for n in range(2):
        for c in range(3):
            inside = [
                y.item()
                for y, is_in in zip(
                    output[n, c].flatten(), regions[n].flatten(), strict=True
                )
                if is_in
            ]
            assert math.isclose(
                scores[n, c], sum(inside) / len(inside), rel_tol=1e-9, abs_tol=1e-12
            )


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return both / (sum(areas) - both)


@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 0.9]))
def test_detection_is_the_best_match_of_the_class(seed, least):
    numbers = random(2, 12, 4, seed=seed).sigmoid()
    corners = torch.cat([numbers[..., :2], numbers[..., :2] + numbers[..., 2:]], 2)
    labels = (random(2, 12, seed=seed + 1) > 0).long()
    scores = random(2, 12, seed=seed + 2).sigmoid()
    found = [
        {"boxes": b, "labels": k, "scores": s}
        for b, k, s in zip(corners, labels, scores, strict=True)
    ]
    box, label = corners[:, 0] + 0.01, torch.tensor([0, 1])
    score = DetectionScore(lambda images: found, min_iou=least)
    for n, y in enumerate(score(torch.zeros(2, 1, 4, 4), box, label)):
        best, expected = least, 0.0
        for one, kind, value in zip(corners[n], labels[n], scores[n], strict=True):
            overlap = iou(one.tolist(), box[n].tolist())
            if kind == label[n] and overlap >= best:
                best, expected = overlap, value.item()
        assert y.item() == expected


def test_no_detection_scores_0_and_has_a_gradient_of_0():
    features = torch.ones(1, 3, 4, 4, requires_grad=True)

    def finds(count):
        def forward(images):
            scores = images[0].mean((1, 2))[:count]
            labels = torch.ones(count, dtype=torch.int64)
            return [{"boxes": torch.rand(count, 4), "labels": labels, "scores": scores}]

        return DetectionScore(forward)

    boxes, labels = torch.tensor([[50.0, 50.0, 60.0, 60.0]]), torch.tensor([1])
    for count in (0, 2):
        y = finds(count)(features, boxes, labels)
        (gradient,) = torch.autograd.grad(y.sum(), features)
        assert y.tolist() == [0] and (gradient == 0).all()


def test_a_detector_that_finds_nothing_gives_a_map_of_0_with_a_warning():
    score, layer, inputs, (boxes, _), _ = CASES["detection"]
    nowhere = (boxes + 1000, torch.tensor([1]))
    with pytest.warns(UserWarning, match="the map is 0 for examples 0, 1, 2"):
        maps = LayerRSIGradCam(score, layer).attribute(
            inputs, additional_forward_args=nowhere, n_steps=2
        )
    assert (maps == 0).all()


def test_similarity_by_hand():
    output = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    similarity = EmbeddingSimilarity(lambda x: x)
    others = torch.tensor([[4.0, 3.0], [1.0, 0.0]])
    torch.testing.assert_close(similarity(output, others), torch.tensor([0.96, 0]))
    pooled = EmbeddingSimilarity(lambda x: x[..., None, None])
    torch.testing.assert_close(pooled(output, others[:1]), torch.tensor([0.96, 0.0]))


def test_contrast_by_hand():
    output = torch.tensor([[1.0, 2.0, 4.0], [0.0, 5.0, 10.0]])
    contrast = ClassContrast(lambda x: x, weight=0.5)
    assert contrast(output, torch.tensor([2, 1])).tolist() == [
        [-1.0, 0.0, 2.0],
        [-2.5, 2.5, 7.5],
    ]
    plain = ClassContrast(lambda x: x, weight=0)
    assert torch.equal(plain(output, torch.tensor([0])), output)


def test_the_map_of_a_contrast_is_that_of_the_classes_contrasted():
    """As Finer-CAM states it: Grad-CAM is linear in the output."""
    model, others = network(softmax=False), torch.tensor([1, 2, 0])
    targets = [0, 1, 2]
    of_class, of_other = (
        LayerGradCam(model, model.layer).attribute(X[..., :6, :6], target)
        for target in (targets, others.tolist())
    )
    contrast = ClassContrast(model, weight=0.75)
    maps = LayerGradCam(contrast, model.layer).attribute(
        X[..., :6, :6], targets, others
    )
    torch.testing.assert_close(maps, of_class - 0.75 * of_other)


def test_distance_by_hand():
    output, values = torch.tensor([1.0, 4.0]), torch.tensor([2.0, 2.0])
    assert NegativeDistance(lambda x: x)(output, values).tolist() == [-1, -2]
    columns = NegativeDistance(lambda x: x)(output[:, None] + torch.arange(2), values)
    assert columns.tolist() == [[-1, 0], [-2, -3]]


def test_the_map_of_a_distance_points_to_the_value():
    model = network(softmax=False)
    plain = LayerGradCam(model, model.layer).attribute(X, 1)
    for value, sign in ((100.0, 1), (-100.0, -1)):
        maps = LayerGradCam(NegativeDistance(model), model.layer).attribute(
            X, 1, torch.tensor([value] * 3)
        )
        torch.testing.assert_close(maps, sign * plain)


# Torchvision's own networks.


@pytest.mark.parametrize("make", [fcn_resnet50, deeplabv3_mobilenet_v3_large])
def test_torchvisions_segmentation(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(weights=None, weights_backbone=None, num_classes=4).eval()
    images = random(2, 3, 48, 48).float()
    regions = torch.zeros(2, 48, 48)
    regions[0, :24], regions[1, 10:30, 10:30] = 1, 1
    score = SegmentationScore(model)
    with torch.no_grad():
        out = model(images)["out"]
    expected = [out[0, 3, :24].mean(), out[1, 3, 10:30, 10:30].mean()]
    torch.testing.assert_close(
        score(images, regions)[:, 3].detach(), torch.stack(expected)
    )
    layer = list(model.backbone.children())[-1]
    for kind, options in (
        (LayerGradCam, {}),
        (LayerRSIGradCam, {"n_steps": 2}),
        (GroupCam, {"groups": 2, "baselines": 0}),
    ):
        maps = kind(score, layer).attribute(
            images, target=3, additional_forward_args=regions, **options
        )
        assert maps.isfinite().all()
        assert kind is GroupCam or (maps != 0).any()


def test_torchvisions_detector():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=3, min_size=64
        ).eval()
    images = random(2, 3, 64, 64).sigmoid().float()
    with torch.no_grad():
        found = model(list(images))
    boxes = torch.stack([f["boxes"][0] for f in found])
    labels = torch.stack([f["labels"][0] for f in found])
    score = DetectionScore(model)
    scores = torch.stack([f["scores"][0] for f in found])
    torch.testing.assert_close(score(images, boxes, labels).detach(), scores)
    for layer in (model.backbone.body["16"], model.backbone.fpn.layer_blocks[0]):
        maps = LayerRSIGradCam(score, layer).attribute(
            images, additional_forward_args=(boxes, labels), n_steps=2
        )
        assert maps.shape == (2, 1, 2, 2) and maps.isfinite().all()


# What stands around: state, functions, the model's own arguments.


def test_a_models_own_arguments_come_first():
    model = segmenter()

    def forward(x, factor, name):
        assert name == "kept"
        return model(x) * factor

    factor, regions = random(3, 1, 1, 1, seed=7), torch.ones(3, 8, 8)
    score = SegmentationScore(forward)
    maps = LayerRSIGradCam(score, model.layer).attribute(
        X, target=0, additional_forward_args=(factor, "kept", regions), n_steps=3
    )
    mean = TwoPart(nn.Identity(), Function(lambda x, f: model(x).mean((2, 3)) * f))
    expected = LayerRSIGradCam(
        lambda x, factor: mean.head(x, factor.flatten(1)), model.layer
    ).attribute(X, target=0, additional_forward_args=factor, n_steps=3)
    torch.testing.assert_close(maps, expected)


def test_the_state_of_a_function_inside_is_kept():
    """Its modules are found, also those that the function closes over."""
    norm = nn.BatchNorm2d(2).double()
    model = TwoPart(norm, Function(lambda A: A))
    found = [SegmentationScore(f) for f in (model, lambda x: model(x), model.forward)]
    for score in found:
        assert norm in find_modules(score)
        with pytest.warns(UserWarning, match="training mode"):
            LayerRSIGradCam(score, norm).attribute(
                X,
                target=0,
                additional_forward_args=torch.eye(8).expand(3, 8, 8),
                n_steps=2,
            )
        assert norm.num_batches_tracked == 0


def test_modules_are_the_models():
    """Modes, devices and dtypes go through."""
    model = segmenter()
    score = SegmentationScore(model).float().train()
    assert model.training and model.layer[0].weight.dtype == torch.float32
    assert list(score.parameters()) == list(model.parameters())


IDENTITY = nn.Identity()
OUTPUT, REGIONS = torch.zeros(2, 3, 4, 4), torch.ones(2, 4, 4)
BOXES, LABELS = torch.tensor([[0.0, 0.0, 2.0, 2.0]] * 2), torch.tensor([1, 0])


def finds(images):
    empty = {"boxes": BOXES[:0], "labels": LABELS[:0], "scores": torch.zeros(0)}
    return [empty] * len(images)


SEGMENT, DETECT = SegmentationScore(IDENTITY), DetectionScore(finds)
EMBED, CONTRAST = EmbeddingSimilarity(IDENTITY), ClassContrast(IDENTITY)
DISTANCE, ROWS = NegativeDistance(IDENTITY), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("score", "arguments", "kind", "words"),
    [
        (SEGMENT, [OUTPUT], TypeError, "additional_forward_args must end in regions of the examples, got 0 arguments"),
        (SEGMENT, [OUTPUT, None], TypeError, "regions must be a tensor, got None"),
        (SEGMENT, [OUTPUT, REGIONS[0]], ValueError, "regions must have a row for each of the 2 rows of the batch, (2, 4, 4), or be (1, 4, 4) for all of them, got a tensor of shape (4, 4)"),
        (SEGMENT, [OUTPUT, REGIONS[:, :3]], ValueError, "got a tensor of shape (2, 3, 4)"),
        (SEGMENT, [OUTPUT, REGIONS * 0], ValueError, "regions must hold a pixel for every example, got none in row 0"),
        (SEGMENT, [OUTPUT, REGIONS * 3], ValueError, "regions must be True and False or numbers in [0, 1], got values from 3 to 3"),
        (SEGMENT, [OUTPUT, REGIONS * torch.nan], ValueError, "regions must be True and False or"),
        (SEGMENT, [ROWS, REGIONS], ValueError, "forward_func must return a tensor (N, C, *spatial), or a dict with 'out', got shape (2, 3)"),
        (SegmentationScore(lambda x: {"logits": x}), [OUTPUT, REGIONS], TypeError, "got dict('logits': tensor of shape (2, 3, 4, 4)); wrap"),
        (DETECT, [OUTPUT], TypeError, "must end in boxes and labels of the examples, got 0"),
        (DETECT, [OUTPUT, BOXES, LABELS.float()], TypeError, "labels must hold integers, got torch.float32"),
        (DETECT, [OUTPUT, BOXES, [1, 0]], TypeError, "labels must be a tensor, got list"),
        (DETECT, [OUTPUT, BOXES, LABELS[:, None]], ValueError, "labels must have a row for each of the 2 rows"),
        (DETECT, [OUTPUT, BOXES[:, :3], LABELS], ValueError, "boxes must have a row for each of the 2 rows of the batch, (2, 4), or be (1, 4) for all"),
        (DETECT, [OUTPUT, BOXES.flip(1), LABELS], ValueError, "boxes must be x0, y0, x1, y1 with x0 < x1 and y0 < y1, got [2.0, 2.0, 0.0, 0.0]"),
        (DetectionScore(lambda x: {"loss": ROWS}), [OUTPUT, BOXES, LABELS], TypeError, "call model.eval()"),
        (EMBED, [ROWS, ROWS[:, :2]], ValueError, "embeddings must have a row for each of the 2 rows of the batch, (2, 3), or be (1, 3)"),
        (EMBED, [ROWS[0], ROWS], ValueError, "forward_func must return a tensor (N, D), got shape (3,)"),
        (CONTRAST, [ROWS, LABELS + 2], ValueError, "others must lie in [0, 2], got values from 2 to 3"),
        (CONTRAST, [ROWS, LABELS.bool()], TypeError, "others must hold integers, got torch.bool"),
        (CONTRAST, [[ROWS], LABELS], TypeError, "forward_func must return a tensor (N, C), got list(tensor of shape (2, 3))"),
        (DISTANCE, [ROWS, ROWS], ValueError, "values must have a row for each of the 2 rows of the batch, (2,), or be (1,)"),
        (DISTANCE, [ROWS, 1.0], TypeError, "values must be a tensor, got 1.0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_in_a_pass(score, arguments, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        score(*arguments)


def test_the_words_reach_whoever_explains():
    model = segmenter()
    with pytest.raises(ValueError, match="regions must have a row for each of the 3"):
        GroupCam(SegmentationScore(model), model.layer).attribute(
            X, 0, 0, torch.ones(3, 4, 4), groups=2
        )
