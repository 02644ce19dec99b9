"""The path core: batches, passes, memory, grad mode and what is left behind."""

import pytest
import torch
from captum._utils.gradient import compute_layer_gradients_and_eval
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from captum_cams import GroupCam, LayerIntegratedGradCam, LayerRSIGradCam
from captum_cams.layer_eval import LayerEvaluation, LayerEvaluator
from captum_cams.path import straight_line
from captum_cams.path_eval import LayerPath
from captum_cams.target_output import TargetOutput, rows_per_batch
from tests.models import Function, Scale, TwoPart, network, random

METHODS = [LayerRSIGradCam, LayerIntegratedGradCam]


def explain(method, model, x, **options):
    if method is GroupCam:
        return GroupCam(model, model.layer).attribute(
            x, 0, groups=2, **{"target": 0, **options}
        )
    return method(model, model.layer).attribute(
        x, **{"n_steps": 5, "target": 0, **options}
    )


class Counting(nn.Module):
    """Notes how many rows each pass brings, and whether they are recorded."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.rows, self.recorded = [], []

    def forward(self, x):
        self.rows.append(len(x))
        self.recorded.append(torch.is_grad_enabled())
        return self.module(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 7, 12, 18, 1000])
def test_any_batch_gives_the_same_map(method, batch):
    """Also below N = 3 and 2 N; with targets and arguments that follow their rows."""
    model, x = network(), random(3, 2, 6, 6)
    shift, factor = random(3, 1, 1, 1, seed=3), random(1, seed=4)[0]

    def forward(x, shift, factor, name):
        assert name == "kept"
        assert factor.shape == ()
        return model(x + shift * factor)

    options = {
        "n_steps": 5,
        "target": [0, 2, 1],
        "additional_forward_args": (shift, factor, "kept"),
    }
    cam = method(forward, model.layer)
    maps = cam.attribute(x, **options, internal_batch_size=batch)
    torch.testing.assert_close(maps, cam.attribute(x, **options))
    for n in range(3):
        single = cam.attribute(
            x[n : n + 1],
            n_steps=5,
            target=[0, 2, 1][n],
            additional_forward_args=(shift[n : n + 1], factor, "kept"),
        )
        torch.testing.assert_close(maps[n : n + 1], single)


@pytest.mark.parametrize("batch", [1, 2, 4, 6, 100])
def test_no_point_is_evaluated_twice(batch):
    model = network()
    model.layer = Counting(model.layer)
    explain(LayerRSIGradCam, model, random(3, 2, 6, 6), internal_batch_size=batch)
    assert sum(model.layer.rows) == 3 * 6
    assert max(model.layer.rows) <= batch


@pytest.mark.parametrize(
    ("rule", "points"),
    [("riemann_trapezoid", 6), ("riemann_right", 6), ("gausslegendre", 6)],
)
def test_integrated_grad_cam_adds_the_baseline_where_the_rule_lacks_it(rule, points):
    model = network()
    model.layer = Counting(model.layer)
    cam = LayerIntegratedGradCam(model, model.layer)
    cam.attribute(random(1, 2, 6, 6), target=0, n_steps=5, method=rule)
    assert sum(model.layer.rows) == points


def test_group_cam_takes_one_pass_and_groups_plus_one_more():
    model = network()
    model.layer = Counting(model.layer)
    explain(GroupCam, model, random(3, 2, 6, 6), internal_batch_size=4)
    assert sum(model.layer.rows) == 3 * (1 + 2 + 1)
    assert max(model.layer.rows) <= 4


@pytest.mark.parametrize(
    ("num_examples", "points", "batch_size"),
    [(1, 51, 4), (3, 51, 4), (8, 51, 32), (20, 51, 32), (100, 9, 32), (7, 3, 5)],
)
def test_equal_steps_fill_their_batches(num_examples, points, batch_size):
    model = network()
    counting = Counting(model.layer)
    x = random(num_examples, 2, 4, 4)
    output = TargetOutput(lambda x: model.head(counting(x)), (x,), 0)
    evaluator = LayerEvaluator(output, counting)
    alphas = torch.linspace(0, 1, points, dtype=torch.float64).tolist()
    seen = 0

    class Compare:
        """Compares the points with those of a plain pass."""

        def add(self, alpha, point):
            self.n = len(point.outputs)
            expected = model.layer(alpha * x[seen : seen + self.n])
            torch.testing.assert_close(point.activations[0], expected.detach())

    paths = LayerPath(
        evaluator, straight_line, (x,), (torch.zeros_like(x),), batch_size
    )
    for examples, used, compared in paths.equal_steps(alphas, Compare):
        assert used == alphas and len(examples) == compared.n
        seen += compared.n
    assert seen == num_examples
    assert sum(counting.rows) == num_examples * points
    assert len(counting.rows) <= 1.15 * -(-num_examples * points // batch_size) + 1


def test_the_part_before_the_layer_is_not_recorded():
    model = network()
    before, behind = Counting(model.layer[0]), Counting(model.head[0])
    model.layer[0], model.head[0] = before, behind
    explain(LayerRSIGradCam, model, random(1, 2, 6, 6))
    assert not any(before.recorded)
    assert all(behind.recorded)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("layer_input", [False, True])
def test_evaluation_is_captums_to_the_bit(layer_input):
    model, x = network(), random(4, 2, 6, 6)
    layer = model.layer[1]
    gradients, activations = compute_layer_gradients_and_eval(
        model, layer, x, 1, attribute_to_layer_input=layer_input
    )
    evaluator = LayerEvaluator(
        TargetOutput(model, (x,), 1), layer, attribute_to_layer_input=layer_input
    )
    ours = evaluator((x,), torch.arange(4))
    assert torch.equal(ours.activations[0], activations[0])
    assert torch.equal(ours.gradients[0], gradients[0])
    assert torch.equal(ours.outputs, model(x)[:, 1])
    assert torch.equal(evaluator.activations((x,), torch.arange(4))[0], activations[0])


@pytest.mark.parametrize("recording", [True, False])
def test_a_model_that_sets_its_own_grad_mode(recording):
    """Leaving such a block turns recording off again; the way is then Captum's."""
    model, x = network(), random(2, 2, 6, 6)
    expected = explain(LayerRSIGradCam, model, x)

    def forward(x):
        with torch.set_grad_enabled(recording or torch.is_grad_enabled()):
            A = model.layer(x)
        return model.head(A)

    model.forward = forward
    torch.testing.assert_close(explain(LayerRSIGradCam, model, x), expected)


def test_data_parallel_takes_the_plain_way():
    model, x = network(), random(2, 2, 6, 6)
    expected = explain(LayerRSIGradCam, model, x)
    model.layer[0] = before = Counting(model.layer[0])
    parallel = nn.DataParallel(model)
    maps = LayerRSIGradCam(parallel, model.layer).attribute(x, target=0, n_steps=5)
    torch.testing.assert_close(maps, expected)
    assert all(before.recorded)


def test_replicas_of_data_parallel_count_as_the_layer():
    """Their hooks are called with the replica."""
    model, x = network(), random(2, 2, 6, 6)
    for method in (*METHODS, GroupCam):
        expected = explain(method, model, x)
        options = (
            {"baselines": 0, "groups": 2} if method is GroupCam else {"n_steps": 5}
        )

        def forward(x):  # hooks are copied as the replica is made
            return model.head(model.layer._replicate_for_data_parallel()(x))

        maps = method(forward, model.layer).attribute(x, target=0, **options)
        torch.testing.assert_close(maps, expected)


def held_rows(monkeypatch):
    """A list that gets, at each pass, how many rows of A or dy/dA are alive."""
    evaluate, alive, rows = LayerEvaluator.__call__, [], []

    def watch(tensor):
        storage = tensor.untyped_storage()
        size = tensor[0].numel() * tensor.element_size()
        alive.append((StorageWeakRef(storage), storage.nbytes() / size))

    def noted(self, points, examples):
        evaluation = evaluate(self, points, examples)
        for tensor in (*evaluation.activations, *evaluation.gradients):
            watch(tensor)
        alive[:] = [(storage, n) for storage, n in alive if not storage.expired()]
        rows.append(sum(n for _, n in alive))
        return evaluation

    def copied(self, part, copy=False):
        evaluation = take(self, part, copy)
        if copy:
            for tensor in (*evaluation.activations, *evaluation.gradients):
                watch(tensor)
        return evaluation

    take = LayerEvaluation.rows
    monkeypatch.setattr(LayerEvaluator, "__call__", noted)
    monkeypatch.setattr(LayerEvaluation, "rows", copied)
    return rows


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_steps_or_examples(method, monkeypatch):
    held = held_rows(monkeypatch)
    peaks = []
    for n_steps, num_examples in ((10, 8), (40, 8), (10, 32)):
        model, x = network(), random(num_examples, 2, 6, 6)
        held.clear()
        explain(method, model, x, n_steps=n_steps, internal_batch_size=2)
        peaks.append(max(held))
    assert peaks[0] == peaks[1] == peaks[2] <= 16


def test_what_is_held_is_seen(monkeypatch):
    """The test above would find what grows."""
    held, kept = held_rows(monkeypatch), []
    evaluate = LayerEvaluator.__call__
    monkeypatch.setattr(
        LayerEvaluator,
        "__call__",
        lambda *args: kept.append(evaluate(*args)) or kept[-1],
    )
    explain(LayerRSIGradCam, network(), random(2, 2, 6, 6), n_steps=9)
    assert max(held) >= 40


def state(model):
    return {
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "modes": [m.training for m in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad for p in model.parameters()],
        "values": [t.clone() for t in model.state_dict().values()],
    }


def same(one, other):
    values = zip(one.pop("values"), other.pop("values"), strict=True)
    return one == other and all(torch.equal(a, b) for a, b in values)


@pytest.mark.parametrize("method", [*METHODS, GroupCam])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(method, fails):
    model = network()
    model.head.append(
        Function(lambda y: (_ for _ in ()).throw(KeyError("broken")) if fails else y)
    )
    model.head[0].weight.requires_grad_(False)
    x = random(2, 2, 6, 6)
    x_before, before = x.clone(), state(model)
    generator, threads = torch.get_rng_state(), torch.get_num_threads()
    if fails:
        with pytest.raises(KeyError, match="broken"):
            explain(method, model, x)
    else:
        explain(method, model, x)
    assert same(state(model), before)
    assert torch.equal(x, x_before)
    assert not x.requires_grad
    assert x.grad is None
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("method", METHODS)
def test_the_callers_tensor_at_the_layer_itself(method):
    """Captum's hook sets requires_grad on it and never undoes it."""
    model = TwoPart(nn.Identity(), Function(lambda A: A.square().sum((1, 2, 3))))
    x = random(2, 1, 3, 3)
    explain(method, model, x, target=None)
    assert not x.requires_grad
    explain(GroupCam, model, random(2, 2, 3, 3), target=None)
    assert not x.requires_grad


def test_inside_no_grad():
    model, x = network(), random(2, 2, 6, 6)
    for method in (*METHODS, GroupCam):
        expected = explain(method, model, x)
        with torch.no_grad():
            torch.testing.assert_close(explain(method, model, x), expected)
            assert not torch.is_grad_enabled()


def test_a_layer_used_twice_counts_its_last_use():
    """As in Captum: the hook keeps what it saw last."""
    scale = Scale(0.5)
    model = Function(lambda x: scale(scale(x).tanh()).sum((1, 2, 3)))
    model.layer = scale
    x = random(1, 1, 2, 2)
    with pytest.warns(UserWarning, match="is used 2 times in a pass"):
        units = LayerRSIGradCam(model, scale).conductance(x, n_steps=200)
    torch.testing.assert_close(units, 0.5 * torch.tanh(0.5 * x))


def test_default_batch():
    def rows(*shape):
        return rows_per_batch((torch.empty(8, *shape),), None)

    assert rows(3, 224, 224) == 4
    assert rows(3, 448, 448) == 1
    assert rows(3, 1000, 1000) == 1
    assert rows(3, 64, 64) == 49
    assert rows(3, 32, 32) == 64

    def on_accelerator(*shape):
        return rows_per_batch((torch.empty(8, *shape, device="meta"),), None)

    assert on_accelerator(3, 224, 224) == 32
    assert on_accelerator(3, 1024, 1024) == 1
    assert on_accelerator(3, 32, 32) == 256
    assert rows_per_batch((torch.empty(8, 3),), 5) == 5


def test_progress_counts_every_point(capsys):
    explain(LayerRSIGradCam, network(), random(2, 2, 6, 6), show_progress=True)
    assert "12/12" in capsys.readouterr().err
    explain(LayerRSIGradCam, network(), random(2, 2, 6, 6))
    assert capsys.readouterr().err == ""


def test_extra_arguments_keep_their_flags():
    """The layer sees what the caller holds: Captum's hook would switch it."""
    layer = nn.Identity()
    shared = random(2, 4)

    def forward(x, shared):
        return layer(shared)[: len(x)].sum(1) * x.mean((1, 2, 3))

    LayerRSIGradCam(forward, layer).attribute(
        random(3, 1, 2, 2), None, None, shared, n_steps=1, internal_batch_size=2
    )
    assert not shared.requires_grad


@pytest.mark.parametrize("method", [*METHODS, GroupCam])
@pytest.mark.parametrize("fails", [False, True])
def test_statistics_of_a_model_in_training_mode_stay(method, fails):
    model = network()
    norm = nn.BatchNorm2d(6).double()
    model.layer.append(norm)
    if fails:
        model.head.append(Function(lambda y: y.no_such_name))
    model.train()
    before = [buffer.clone() for buffer in norm.buffers()]
    expected = (
        pytest.raises(AttributeError)
        if fails
        else pytest.warns(match="the model is in training mode, and in it BatchNorm2d")
    )
    with expected:
        explain(method, model, random(3, 2, 6, 6))
    assert all(map(torch.equal, norm.buffers(), before))
    assert model.training
