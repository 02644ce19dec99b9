"""Which of a network's outputs are explained, and which are measured."""

import re

import pytest
import torch
from torch import nn

from captum_cams.evaluation import networks
from captum_cams.evaluation.class_names import name_outputs
from captum_cams.evaluation.errors import MisreadError, UserError
from captum_cams.evaluation.networks import (
    EXPLAIN,
    choose_output,
    load_network,
    probe_output,
)
from captum_cams.examples import shapes_model
from tests.models import Function, Scale, random

PICTURE = torch.zeros(1, 3, 8, 8)
X = random(4, 3, 8, 8).float()
SOFTMAX, SIGMOID = nn.Softmax(1), nn.Sigmoid()


def scores(classes=3, gain=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(16, classes), Scale(gain),
        )  # fmt: skip


def ending_in(*ends, classes=3):
    return nn.Sequential(scores(classes), *ends)


def chosen(model, explain):
    return choose_output(load_network(model, size=8), explain, PICTURE)


def unchanged(scores):
    return scores


@pytest.mark.parametrize(
    ("model", "explain", "explained", "measured"),
    [
        (scores(), "probabilities", SOFTMAX, SOFTMAX),
        (scores(), "logits", unchanged, SOFTMAX),
        (scores(), "sigmoid", SIGMOID, SIGMOID),
        (scores(), "model", unchanged, unchanged),
        (ending_in(SOFTMAX), "probabilities", SOFTMAX, SOFTMAX),
        (ending_in(SOFTMAX), "logits", unchanged, SOFTMAX),
        (ending_in(SOFTMAX), "model", SOFTMAX, SOFTMAX),
        (ending_in(SIGMOID), "sigmoid", SIGMOID, SIGMOID),
        (ending_in(SIGMOID), "model", SIGMOID, SIGMOID),
        (ending_in(SIGMOID), "logits", unchanged, SIGMOID),
        (ending_in(Function(torch.sigmoid)), "sigmoid", SIGMOID, SIGMOID),
        (ending_in(nn.LogSoftmax(1)), "probabilities", SOFTMAX, SOFTMAX),
        (ending_in(nn.LogSoftmax(1)), "logits", nn.LogSoftmax(1), SOFTMAX),
        (scores(1), "sigmoid", SIGMOID, SIGMOID),
        (scores(1), "model", unchanged, unchanged),
        (ending_in(SIGMOID, classes=1), "sigmoid", SIGMOID, SIGMOID),
        (ending_in(SIGMOID, classes=1), "logits", unchanged, SIGMOID),
        (ending_in(SIGMOID, classes=2), "sigmoid", SIGMOID, SIGMOID),
    ],
)  # fmt: skip
def test_outputs(model, explain, explained, measured):
    """As functions of the same class scores."""
    network = chosen(model, explain)
    with torch.no_grad():
        raw = (model[0] if isinstance(model[0], nn.Sequential) else model)(X)
        torch.testing.assert_close(network.explained(X), explained(raw))
        torch.testing.assert_close(network.forward(X), measured(raw))
        log = network.explained(X)
        if explained in (SOFTMAX, SIGMOID):
            log = log.log()
        torch.testing.assert_close(network.log_explained(X), log)


@pytest.mark.parametrize(
    ("name", "number"), [("DEFAULT", 2), ("IMAGENET1K_V2", 2), ("IMAGENET1K_V1", 1)]
)
def test_weights_of_torchvision_by_their_name(name, number, monkeypatch):
    """Pictures are resized as these weights want them."""
    asked = []
    monkeypatch.setattr(
        networks.models,
        "get_model",
        lambda _, weights: asked.append(weights) or scores(1000),
    )
    network = load_network("efficientnet_b1", name)
    (weights,) = asked
    assert weights.name == f"IMAGENET1K_V{number}"
    assert network.size == weights.transforms().crop_size[0]
    with pytest.raises(UserError, match="cannot read weights IMAGENET1K_V3: No such"):
        load_network("efficientnet_b1", "IMAGENET1K_V3")
    assert len(asked) == 1


@pytest.mark.parametrize(
    "model",
    [
        ending_in(nn.ReLU()),  # as SqueezeNet's
        ending_in(Scale(0.0)),  # as a head before training
        ending_in(Function(lambda x: x * 1e-3 + 0.5)),  # inside of [0, 1] for pictures
        nn.Sequential(scores(), Function(lambda x: x / x.abs().amax())),
    ],
)
def test_scores_are_told_by_more_than_their_range(model):
    network = chosen(model, "probabilities")
    with torch.no_grad():
        torch.testing.assert_close(network.forward(X), model(X).softmax(1))


def in_precision(dtype, *ends, classes=3):
    """Outputs that were computed in a lower precision, and are given in float."""
    steps = (lambda x: x.to(dtype), *ends, lambda x: x.float())
    ends = [s if isinstance(s, nn.Module) else Function(s) for s in steps]
    return ending_in(*ends, classes=classes)


def by_hand(x):
    powers = (x - x.amax(1, keepdim=True)).exp()
    return powers / powers.sum(1, keepdim=True)


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 3, 1000])
@pytest.mark.parametrize("softmax", [SOFTMAX, by_hand])
def test_a_softmax_in_half_precision_is_no_sigmoid(dtype, classes, softmax):
    model = in_precision(dtype, softmax, classes=classes)
    network = chosen(model, "probabilities")
    assert network.given == "shares"
    with torch.no_grad():
        assert torch.equal(network.forward(X), model(X))
        if softmax is SOFTMAX:
            scores = model[:2](X).float()
            found = chosen(model, "logits").explained(X)
            torch.testing.assert_close(found, scores, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float, torch.half, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_a_sigmoid_in_half_precision_is_no_softmax(dtype, classes):
    model = in_precision(dtype, SIGMOID, classes=classes)
    assert chosen(model, "sigmoid").given == "sigmoid"
    model = in_precision(dtype, nn.LogSoftmax(1), classes=classes)
    assert chosen(model, "probabilities").given == "scores"


@pytest.mark.parametrize(
    ("function", "explain", "words"),
    [
        (
            lambda y: y.softmax(1),
            "probabilities",
            "Function's outputs for noise are probabilities that add up to 1, but for "
            "a picture they lie in [-3, 1] and add up to -2; choose --explain model, "
            "which takes them as they are, or give the model without its last step",
        ),
        (
            torch.sigmoid,
            "sigmoid",
            "Function's outputs for noise lie in [0, 1], as those of a sigmoid, but for",
        ),
    ],
)
def test_outputs_that_contradict_what_was_found_stop_a_run(function, explain, words):
    """In any company, forwards with and without gradients; NaN is no contradiction."""

    def give(x):
        y = x.mean((2, 3)) if x.shape[2] > 1 else x[:, :, 0, 0]  # (N, 3)
        return torch.where(y.amin(1, keepdim=True) == -3, y, function(y))

    odd = torch.tensor([-3.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    network = chosen(Function(give), explain)
    assert network.is_checked
    inputs = X.clone()
    inputs[1] = torch.nan
    assert network.forward(inputs).isnan().any(1).tolist() == [
        False,
        True,
        False,
        False,
    ]
    for batch in (odd, torch.cat([odd, inputs]), torch.cat([inputs, odd])):
        for x in (batch, batch.clone().requires_grad_()):
            with pytest.raises(MisreadError, match=re.escape(words)):
                network.forward(x)
        for untouched in (chosen(Function(give), "model"), network):
            assert untouched.explained(batch).isfinite().any()
    assert torch.equal(chosen(Function(give), "model").forward(odd), odd[:, :, 0, 0])


def test_the_output_at_noise_tells_models_apart():
    first = chosen(scores(12), "probabilities")
    found = probe_output(first, PICTURE)
    with torch.no_grad():
        noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        assert found == first.explained(noise)[0, :8].tolist()
    assert probe_output(chosen(scores(12, gain=2.0), "logits"), PICTURE) != found
    dropping = chosen(ending_in(Function(nn.functional.dropout)), "logits")
    assert probe_output(dropping, PICTURE) == probe_output(dropping, PICTURE)
    broken = chosen(ending_in(Function(lambda x: x / 0)), "model")
    assert probe_output(broken, PICTURE) == [None] * 3


NAMES = ["cat", "the dog", "Ähre"]


@pytest.mark.parametrize(
    ("content", "names", "wnids"),
    [
        ("cat\nthe dog\nÄhre", NAMES, ()),
        ("\ufeffcat\r\n the dog \r\nÄhre\r\n\r\n \n", NAMES, ()),
        ('["cat", "the dog", "Ähre"]', NAMES, ()),
        ('{"2": "Ähre", "0": "cat", "1": "the dog"}', NAMES, ()),
        (
            '{"0": ["n00000001", "cat"], "1": ["n00000002", "the dog"], '
            '"2": ["n00000003", "Ähre"]}',
            NAMES,
            ("n00000001", "n00000002", "n00000003"),
        ),
        (
            "n00000001 cat, Felis catus\nn00000002\tthe dog\nn00000003 Ähre,spica\n",
            NAMES,
            ("n00000001", "n00000002", "n00000003"),
        ),
        ("n00000001\nn00000002\nn00000003", ["n00000001", "n00000002", "n00000003"], ("n00000001", "n00000002", "n00000003")),
        ("cat, tabby\nn00000002 dog\nc", ["cat, tabby", "n00000002 dog", "c"], ()),
    ],
)  # fmt: skip
def test_names_of_outputs_from_a_file(content, names, wnids, tmp_path):
    (tmp_path / "names").write_bytes(content.encode())
    network = name_outputs(load_network(scores()), tmp_path / "names", 3)
    assert list(network.classes) == names and network.wnids == wnids


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb", "must hold a name for each of the 3 outputs of Sequential, in their order, got 2"),
        (b"\n", "in their order, got 0"),
        (b"[]", "in their order, got 0"),
        (b"a\n\nb", "must hold a name for each output, one a line, or in JSON a list or"),
        (b"a\n\nb", "; number 2 is ''"),
        (b'["a", "b"', "must hold a name for each output, one a line"),
        (b'{"a": 0, "b": 1, "c": 2}', "must hold a name for each output"),
        (b'{"1": "a", "2": "b", "3": "c"}', "must hold a name for each output"),
        (b'["a", "b", 3]', "got 3 among them"),
        (b'["a", ["b", 1], "c"]', "got ['b', 1] among them"),
        ("a\nb\nÄ".encode("latin-1"), "not text in UTF-8; save it as such"),
        ("a\nb\nÄ".encode("utf-16"), "not text in UTF-8; save it as such"),
    ],
)  # fmt: skip
def test_a_file_without_a_name_for_each_output(content, words, tmp_path):
    (tmp_path / "names").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(words)) as found:
        name_outputs(load_network(scores()), tmp_path / "names", 3)
    assert "\n" not in str(found.value)


def test_nan_hides_nothing_of_the_other_pictures():
    """What a model gives is told once, and not anew from each batch."""
    model = ending_in(SOFTMAX)
    network = chosen(model, "probabilities")
    inputs = X.clone()
    inputs[1] = torch.nan
    with torch.no_grad():
        found, rows = network.forward(inputs), [0, 2, 3]
        torch.testing.assert_close(found[rows], model(X)[rows])
    assert found[1].isnan().all()


@pytest.mark.parametrize(
    ("model", "explain", "words"),
    [
        (
            ending_in(SIGMOID),
            "probabilities",
            "--explain probabilities needs class scores, or probabilities that add up "
            "to 1, but Sequential's outputs lie in [0, 1] without adding up to 1, as "
            "those of a sigmoid; choose --explain sigmoid or --explain model",
        ),
        (ending_in(Function(torch.sigmoid)), "probabilities", "as those of a sigmoid"),
        (ending_in(SIGMOID, classes=1), "probabilities", "as those of a sigmoid"),
        (
            ending_in(Function(lambda x: (0.5 * x).tanh() / 2 + 0.5)),
            "probabilities",
            "as those of a sigmoid",
        ),
        (
            ending_in(SOFTMAX),
            "sigmoid",
            "--explain sigmoid needs scores of classes that do not exclude each other, "
            "but Sequential's outputs are probabilities that add up to 1; choose "
            "--explain probabilities or --explain model",
        ),
        (
            ending_in(Function(lambda x: x.softmax(1))),
            "logits",
            "--explain logits needs class scores, but Sequential's outputs are "
            "probabilities already, and it has no module Softmax at its end that can "
            "be taken out; choose --explain probabilities, or give the model without",
        ),
        (
            ending_in(Function(torch.sigmoid)),
            "logits",
            "no module Sigmoid at its end that can be taken out; choose --explain "
            "sigmoid",
        ),
        (
            scores(1),
            "probabilities",
            "Sequential must give two or more class scores a picture, got one, whose "
            "share of all is always 1; choose --explain sigmoid, or --explain model",
        ),
        (scores(1), "logits", "must give two or more class scores a picture, got one"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(5, 3)),
            "model",
            "Sequential fails on a picture of 8 x 8: RuntimeError: mat1 and mat2",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_one_sentence(model, explain, words):
    with pytest.raises(UserError, match=re.escape(words)):
        chosen(model, explain)


def test_the_softmax_that_is_taken_out_is_the_one_at_the_end():
    """And that of the user's own model stays."""
    gate = nn.Sequential(scores(), SOFTMAX)
    model = nn.Sequential(gate, nn.Linear(3, 3), nn.Softmax(1))
    network = chosen(model, "logits")
    kinds = [type(module) for module in network.model.modules()]
    assert kinds.count(nn.Softmax) == 1 and isinstance(network.model[0][1], nn.Softmax)
    assert isinstance(model[2], nn.Softmax)
    with torch.no_grad():
        torch.testing.assert_close(network.explained(X), model[:2](X))


def test_a_model_that_takes_pictures_alone():
    """Stronger noise, which tells scores from others, is left out."""

    def careful(x):
        if x.abs().max() > 5:
            raise ValueError("no picture")
        return x

    model = nn.Sequential(Function(careful), scores(gain=9.0))
    network = chosen(model, "probabilities")
    with torch.no_grad():
        torch.testing.assert_close(network.forward(X), model(X).softmax(1))


@pytest.mark.parametrize("explain", EXPLAIN)
def test_the_example_network_has_all_but_a_sigmoid(explain):
    model, x = shapes_model(), random(2, 3, 64, 64).float()
    picture = torch.zeros(1, 3, 64, 64)
    if explain == "sigmoid":
        with pytest.raises(UserError, match="add up to 1; choose --explain"):
            choose_output(load_network(), explain, picture)
        return
    network = choose_output(load_network(), explain, picture)
    with torch.no_grad():
        wanted = model.logits(x) if explain == "logits" else model(x)
        torch.testing.assert_close(network.explained(x), wanted)
        torch.testing.assert_close(network.forward(x), model(x))


class Viewing(nn.Module):
    """A model whose code needs its layers' outputs in their usual order."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x):
        features = self.conv(x)
        return self.head(features.view(len(features), -1))


@pytest.mark.parametrize(("model", "can"), [(scores(), True), (Viewing(), False)])
def test_convolutions_work_channels_last_where_the_model_can(model, can):
    network = chosen(model, "logits")
    (weight,) = [p for p in network.model.parameters() if p.dim() == 4]
    assert weight.is_contiguous(memory_format=torch.channels_last) == can
    assert weight.is_contiguous() != can
    torch.testing.assert_close(network.explained(X), model(X))
