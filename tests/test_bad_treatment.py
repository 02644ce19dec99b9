"""What goes wrong leaves no trace, has a name, and costs no memory."""

import ast
import contextlib
import gc
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules import module as modules
from tqdm import TMonitor

import captum_cams
from captum_cams import Rise, cli
from captum_cams.attr.registry import METHODS
from tests.methods import OURS, WITH_LAYER, explain
from tests.models import Function, TwoPart, network, random

X = random(2, 2, 6, 6)

# Models in training mode, and dead ones, are here on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the model is in training mode"),
    pytest.mark.filterwarnings("ignore:the map is 0 for example"),
]


def raises(kind, words):
    return pytest.raises(kind, match=re.escape(words))


def trained():
    """With BatchNorm in training mode, frozen parameters and gradients of before."""
    model = network()
    model.layer.append(nn.BatchNorm2d(6).double())
    model.head[0].weight.requires_grad_(False)
    model(X).sum().backward()
    model.layer.train()
    return model


def traces(model, *tensors):
    """All that an explanation could leave behind."""
    tensors = [*tensors, *model.parameters(), *model.buffers()]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return {
        "hooks": [len(getattr(m, hook)) for m in model.modules() for hook in hooks],
        "global hooks": [len(getattr(modules, f"_global{hook}")) for hook in hooks],
        "recording": torch.is_grad_enabled(),
        "modes": [m.training for m in model.modules()],
        "random numbers": torch.get_rng_state().tolist(),
        "flags": [t.requires_grad for t in tensors],
        "values": [t.detach().flatten().tolist() for t in tensors],
        "gradients": [None if t.grad is None else t.grad.tolist() for t in tensors],
        # tqdm keeps one of its own for all bars there will ever be.
        "threads": sum(not isinstance(t, TMonitor) for t in threading.enumerate()),
    }


class Failing(nn.Module):
    """Fails in the pass of that number."""

    def __init__(self, error, number):
        super().__init__()
        self.error, self.left = error, number

    def forward(self, x):
        self.left -= 1
        if not self.left:
            raise self.error
        return x


def fails_in_the_model(model, error, number):
    model.head.append(Failing(error, number))


def fails_in_a_hook(model, error, number):
    failing = Failing(error, number)
    model.head[0].register_forward_hook(lambda *_: failing(None))


def fails_at_the_layer(model, error, number):
    failing = Failing(error, number)
    model.layer.register_forward_hook(lambda *_: failing(None))


def two_of_each_base_class():
    """Two methods with the same base class leave their passes to the same code."""
    by_base = {}
    for name in OURS:
        base = METHODS[name].attribution.__base__
        by_base.setdefault(base, []).append(name)
    return [name for names in by_base.values() for name in names[:2]]


@pytest.mark.parametrize("name", two_of_each_base_class())
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "way", [fails_in_the_model, fails_in_a_hook, fails_at_the_layer]
)
@pytest.mark.parametrize("error", [KeyError("broken"), KeyboardInterrupt()])
def test_failing_passes_leave_no_trace(name, number, way, error):
    model, x = trained(), X.clone().requires_grad_()
    way(model, error, number)
    # One example a pass; Xrai sends what it explains through the model itself.
    options = {"target": 0, "internal_batch_size": 1}
    if name == "xrai":
        options["n_steps"] = 4
    before = traces(model, x)
    with pytest.raises(type(error)):
        explain(name, model, model.layer, x, **options)
    assert traces(model, x) == before
    again = explain(name, model, model.layer, X, **options)
    model.layer.eval()
    assert again.isfinite().all()


@pytest.mark.parametrize(
    "name", [name for name in WITH_LAYER if METHODS[name].gradients]
)
def test_a_failing_backward_pass_leaves_no_trace(name):
    model = trained()

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise KeyError("broken")

    model.head.insert(1, Function(Broken.apply))
    before = traces(model, X)
    with pytest.raises(KeyError, match="broken"):
        explain(name, model, model.layer, X, target=0)
    assert traces(model, X) == before


@pytest.mark.parametrize("name", OURS)
def test_what_succeeds_leaves_no_trace(name):
    model, x = trained(), X.clone().requires_grad_()
    x.sum().backward()
    before = traces(model, x)
    maps = explain(name, model, model.layer, x, target=0)
    assert traces(model, x) == before
    assert not maps.requires_grad


@pytest.mark.parametrize("name", OURS)
def test_a_model_may_write_to_its_input(name):
    """As one does that normalizes in place: what is asked of it next is as it was."""
    model, x = network(), random(3, 2, 6, 6)
    given = x.clone()

    def maps(forward):
        torch.manual_seed(0)
        return explain(name, forward, model.layer, x, target=0)

    expected = maps(lambda x: model(3 * x))
    torch.testing.assert_close(maps(lambda x: model(x.mul_(3))), expected)
    assert torch.equal(x, given)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("batch", [None, 1])
def test_inputs_that_are_not_finite_name_their_example(name, value, batch):
    x = X.clone()
    x[1, 0, 2, 3] = value
    model = network()
    with raises(ValueError, "must be finite, got NaN or infinity for example 1"):
        explain(name, model, model.layer, x, target=0, internal_batch_size=batch)


@pytest.mark.parametrize("name", WITH_LAYER)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("batch", [None, 1, 2, 5])
def test_activations_that_are_not_finite_name_their_example(name, value, batch):
    model = TwoPart(
        Function(lambda x: torch.where(x == X[1, 0, 0, 0], value, x)),
        Function(lambda A: A.tanh().sum((2, 3))),
    )
    words = "the layer's activations must be finite, got NaN or infinity for example 1"
    with raises(ValueError, words):
        explain(name, model, model.layer, X, target=0, internal_batch_size=batch)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_name_their_example(name, value):
    model, x = network(), X.clone()
    x[1] += 100  # to be known again: on the way, behind masks and in noise

    def forward(x):
        return torch.where(x.mean((1, 2, 3)) > 5, value, model(x)[:, 0])

    words = "forward_func's output must be finite, got NaN or infinity for example 1"
    with raises(ValueError, words):
        explain(name, forward, model.layer, x)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("rsi-grad-cam", "n_steps"),
        ("integrated-grad-cam", "n_steps"),
        ("smooth-grad-cam-plus-plus", "nt_samples"),
        ("rise", "n_masks"),
    ],
)
def test_memory_of_a_million_steps(name, option):
    """Looked at after fifty passes, and interrupted."""
    model, passes, tensors = network(), [], []

    class EnoughError(Exception):
        pass

    def count(*_):
        passes.append(None)
        if len(passes) in (10, 50):
            gc.collect()
            tensors.append(sum(type(o) is torch.Tensor for o in gc.get_objects()))
        if len(passes) == 50:
            raise EnoughError

    model.head.register_forward_hook(count)
    tracemalloc.start()
    try:
        with pytest.raises(EnoughError):
            explain(name, model, model.layer, X, target=0, **{option: 1_000_000})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tensors[1] <= tensors[0] + 5
    assert peak < 120e6  # the places of the points and their weights, as numbers


def test_a_million_nodes_of_gausslegendre_are_refused():
    """Their calculation would take a matrix of a million columns."""
    model = network()
    words = (
        "n_steps must be at most 1000 for the rule of Gauss and Legendre, got 1000000"
    )
    for name, rule in (
        ("xrai", {}),
        ("integrated-grad-cam", {"method": "gausslegendre"}),
    ):
        with raises(ValueError, words):
            explain(name, model, model.layer, X, target=0, n_steps=1_000_000, **rule)


ONE_UNIT = {  # y = 3 A + 1 at A = 2
    "positive-grad-cam": 3 * 2,
    "grad-cam-plus-plus": 3 / (2 + 3 * 2) * 2,
    "smooth-grad-cam-plus-plus": 3 / (2 + 3 * 2) * 2,
    "x-grad-cam": 3 * 2,
    "layer-cam": 3 * 2,
    "hi-res-cam": 3 * 2,
    "ablation-cam": 6 / 7 * 2,
    "rsi-grad-cam": (3 * 2) * 2,
    "integrated-grad-cam": 3 * 2 / 2,
    "group-cam": 0,  # a constant mask
    "score-cam": 2,
}


@pytest.mark.parametrize(("name", "expected"), ONE_UNIT.items())
def test_one_channel_of_one_unit(name, expected):
    model = TwoPart(nn.Identity(), Function(lambda A: 3 * A.flatten() + 1))
    x = torch.full((1, 1, 1, 1), 2.0).double()
    groups = {"groups": 1} if name == "group-cam" else {}
    maps = explain(name, model, model.layer, x, **groups)
    assert maps.item() == pytest.approx(expected)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("spatial", [(6, 6), (2, 2)])
def test_constant_feature_maps_give_constant_maps(name, value, spatial):
    """
    And feature maps of 0 give 0, but where pixels are ranked.

    Few random masks, as those of RISE, make a pattern that scales with the output.
    """
    random_masks = "n_masks" in METHODS[name].arguments
    model = TwoPart(
        Function(lambda x: 0 * x + value),
        Function(
            lambda A: (A * A.new_tensor([2.0, -1.0]).view(2, 1, 1)).sum((1, 2, 3)) + 1
        ),
    )
    x = random(1, 2, *spatial)
    maps = explain(name, model, model.layer, x)
    if random_masks:
        ones = explain(name, lambda x: x.new_ones(len(x)), model.layer, x)
        torch.testing.assert_close(maps, model(x) * ones)
    else:
        assert (maps == maps.flatten()[0]).all()
    if value == 0 and not random_masks and name != "xrai":
        assert (maps == 0).all()


MAGNITUDES = [1e-30, 1.0, 1e30]
# The map's degree in the features, those behind the layer alike, and in the output.
# Grad-CAM++ and its smooth twin have none: with gradients g of a linear head, their maps
# are made of g A / (2 + g sum A), which the product of both scales determines.
DEGREES = {
    "positive-grad-cam": (1, 1),
    "x-grad-cam": (1, 1),
    "layer-cam": (1, 1),
    "hi-res-cam": (1, 1),
    "ablation-cam": (1, 0),
    "rsi-grad-cam": (2, 1),
    "integrated-grad-cam": (1, 1),
    "group-cam": (1, 1),
    "rise": (1, 1),
    "smooth-grad": (1, 1),
    "xrai": (0, 0),
}


@pytest.mark.parametrize(
    "name", [*DEGREES, "grad-cam-plus-plus", "smooth-grad-cam-plus-plus"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", MAGNITUDES)
@pytest.mark.parametrize("output", MAGNITUDES)
def test_extreme_magnitudes_follow_the_scale_law_or_are_named(
    name, dtype, features, output
):
    """A network without biases: its features and its output scale alike."""
    convolution = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    weight = random(4, 2, 3, 3, seed=3)
    convolution.weight = nn.Parameter(weight)
    head_weight = random(1, 4, 6, 6, seed=4)

    def maps(dtype, features, output):
        model = TwoPart(
            nn.Sequential(
                convolution.to(dtype), nn.ReLU(), Function(lambda A: features * A)
            ),
            Function(lambda A: output * (head_weight.to(A) * A).sum((1, 2, 3))),
        )
        return explain(name, model, model.layer, X.to(dtype))

    if name in DEGREES:
        a, y = DEGREES[name]
        factor = features**a * output**y
        expected = factor * maps(torch.float64, 1.0, 1.0)
    else:
        factor = 1.0
        expected = maps(torch.float64, 1.0, features * output)
    range_ = torch.finfo(dtype)
    # What the output and the map come to.
    if max(features * output, factor) > range_.max / 1e4:
        with raises(ValueError, "must be finite, got NaN or infinity for example 0"):
            maps(dtype, features, output)
        return
    result = maps(dtype, features, output)
    # What is too small for the dtype may become 0.
    torch.testing.assert_close(
        result.double(),
        expected,
        rtol=1e-3,
        atol=max(1e-4 * expected.max().item(), 1e11 * range_.tiny),
    )


@pytest.mark.parametrize("scale", MAGNITUDES)
def test_rise_of_extreme_outputs_stops_at_its_tolerance(scale):
    """Squares that overflow in single precision, or vanish, are not taken for met."""
    x = torch.ones(1, 1, 2, 2)
    rise = Rise(lambda x: scale * x[..., 0].mean((1, 2)))
    missed = pytest.warns(UserWarning, match="have not reached")
    with contextlib.nullcontext() if scale == 1 else missed:
        maps = rise.attribute(x, n_masks=200, tolerance=0.5, grid_size=2)
    plain = {n: rise.attribute(x, n_masks=n, grid_size=2) for n in (100, 200)}
    assert not torch.equal(plain[100], plain[200])
    assert torch.equal(maps, plain[100 if scale == 1 else 200])


@pytest.mark.parametrize("name", OURS)
def test_a_hundred_calls_and_objects_leave_nothing(name):
    model, x = network(), random(1, 2, 4, 4)

    def count():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(5):
        explain(name, model, model.layer, x, target=0)
    before, hooks = count(), traces(model, x)
    for _ in range(100):  # a new object each
        explain(name, model, model.layer, x, target=0)
    assert count() - before < 50
    assert traces(model, x) == hooks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a good picture and good weights."""
    path = tmp_path_factory.mktemp("bytes")
    picture = captum_cams.examples.shape_pictures(1).images[0]
    from torchvision.utils import save_image

    for kind in ("png", "jpg", "gif", "bmp", "tif"):
        save_image(picture, path / f"good.{kind}")
    torch.save(captum_cams.examples.shapes_model().state_dict(), path / "good.pt")
    return path


@st.composite
def damaged(draw, good):
    """A good file, cut short and with some bytes changed."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 5))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))])


def one_sentence(arguments, capsys):
    """The command ends in an error of one line."""
    capsys.readouterr()
    assert cli.main(["explain", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("captum-cams: ") and error.count("\n") == 1
    assert "Traceback" not in error


hurried = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif", None])
@hurried
@given(data=st.data())
def test_bytes_that_are_no_picture(kind, data, folder, capsys):
    """Where they are one after all, the layer is not there."""
    noise = (
        st.binary() if kind is None else damaged((folder / f"good.{kind}").read_bytes())
    )
    path = folder / "noise"
    path.write_bytes(data.draw(noise))
    one_sentence([path, "--layer", "none"], capsys)


@pytest.mark.parametrize("whole", [False, True])
@hurried
@given(data=st.data())
def test_bytes_that_are_no_weights(whole, data, folder, capsys):
    noise = damaged((folder / "good.pt").read_bytes()) if whole else st.binary()
    path = folder / "noise.pt"
    path.write_bytes(data.draw(noise))
    one_sentence([folder / "good.png", "--weights", path, "--layer", "none"], capsys)


HELP, MISSING = ["--help"], ["explain", "missing.png"]


SHAPES = ["--model", "captum_cams.examples:shapes_model", "--size", "128"]


def run(arguments):
    """The exit code of a command, also of one that argparse ends."""
    try:
        return cli.main(arguments)
    except SystemExit as exit:
        return exit.code


@contextlib.contextmanager
def broken_pipe():
    """Whose reader is gone, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        yield stream


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [("stdout", HELP, 141), ("stderr", HELP, 0), ("stderr", MISSING, 2)],
)
def test_a_reader_may_stop_reading(name, arguments, code, monkeypatch, capsys):
    with broken_pipe() as stream:
        monkeypatch.setattr(sys, name, stream)
        assert run(arguments) == code
        monkeypatch.undo()
    # Nothing was left in the stream that its end could not write, and nothing was said.
    assert capsys.readouterr().err == ""


def test_a_reader_may_stop_reading_while_pictures_are_explained(
    folder, monkeypatch, capsys
):
    with broken_pipe() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(["explain", str(folder / "good.png"), *SHAPES]) == 141
        monkeypatch.undo()
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("name", "arguments", "code", "words"),
    [
        (
            "stdout",
            HELP,
            2,
            "captum-cams: cannot read or write: No space left on device\n",
        ),
        ("stderr", MISSING, 2, ""),
    ],
)
def test_a_stream_to_a_full_disk(name, arguments, code, words, monkeypatch, capsys):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, name, stream)
        assert run(arguments) == code
        monkeypatch.undo()
    assert capsys.readouterr().err == words


@pytest.mark.parametrize(("arguments", "code"), [(HELP, 0), (MISSING, 2)])
def test_closed_streams(arguments, code, monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert run(arguments) == code
    for name in ("stdout", "stderr"):
        getattr(sys, name).close()


def test_a_terminal_of_few_letters(folder, monkeypatch):
    name = shutil.copy(folder / "good.png", folder / "zähler 山.png")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    options = [*SHAPES, "--methods", "grad-cam", "--out", str(folder)]
    assert run(["explain", str(name), *options]) == 0
    assert rb"z\xe4hler \u5c71.png: " in stream.buffer.getvalue()


@pytest.mark.slow
def test_an_interpreter_ends_quietly_without_a_reader():
    code = "from captum_cams.cli import main; import sys; sys.exit(main(['--help']))"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with broken_pipe() as stream:
        command = [sys.executable, "-c", code]
        ended = subprocess.run(
            command, stdout=stream, stderr=subprocess.PIPE, env=environment
        )
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("name", ["code.pt", "scalar.pt"])
def test_weights_that_are_something_else(name, folder, capsys):
    class Code:
        def __reduce__(self):
            return print, ("run by the file",)

    torch.save(Code() if name == "code.pt" else 3.0, folder / name)
    one_sentence([folder / "good.png", "--weights", folder / name], capsys)


def test_weights_are_loaded_as_weights_alone():
    """Everywhere: also in tests, in benchmarks, and where a file is our own."""
    root = Path(captum_cams.__file__).parent.parent
    files = [*root.glob("captum_cams/**/*.py"), *root.glob("tests/**/*.py")]
    files.remove(root / "tests/test_modes.py")  # unpickles what it has just pickled
    breaches = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in ("torch.load", "pickle.load", "pickle.loads"):
                options = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if called != "torch.load" or options.get("weights_only") != "True":
                    breaches.append(f"{file.name}:{node.lineno} {called}")
    assert not breaches
    assert any("torch.load(" in file.read_text() for file in files)
