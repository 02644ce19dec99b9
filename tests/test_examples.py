from pathlib import Path

import pytest
import torch
from torch import nn

from captum_cams.examples import (
    CLASSES,
    ShapesNet,
    model,
    shape_masks,
    shape_pictures,
    shapes,
    shapes_model,
    train,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Tensors this small wait for a second thread more than they gain.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fresh() -> tuple[shapes.ShapePictures, torch.Tensor]:
    pictures = shape_pictures(400, seed=77)
    net = shapes_model()
    with torch.no_grad():
        parts = [net(x) for x in pictures.images.split(50)]
    return pictures, torch.cat(parts)


def test_the_network_names_fresh_pictures_and_is_sure(fresh):
    pictures, probabilities = fresh
    top, guess = probabilities.max(1)
    right = guess == pictures.labels
    assert right.float().mean() >= 0.95
    assert top[right].median() > 0.99
    assert (top[right] > 0.99).float().mean() > 0.5


def test_every_class_is_drawn_and_named(fresh):
    pictures, probabilities = fresh
    for label in range(len(CLASSES)):
        own = pictures.labels == label
        assert own.sum() > 25
        assert (probabilities[own].argmax(1) == label).float().mean() > 0.85


def test_pictures_are_as_promised(fresh):
    images, labels, boxes = fresh[0]
    assert images.shape == (400, 3, 128, 128)
    assert images.dtype == torch.float32
    assert labels.shape == (400,)
    assert labels.dtype == torch.int64
    assert boxes.shape == (400, 4)
    assert boxes.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert (boxes[:, :2] > 0).all()
    assert (boxes[:, 2:] < 128).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    area = sides.prod(1) / 128**2
    assert 0.075 < area.min() < 0.12
    assert 0.4 < area.max() < 0.48


@pytest.mark.parametrize("size", [64, 97, 200])
def test_boxes_touch_the_drawn_pixels(size):
    pictures = shape_pictures(24, size=size, seed=3)
    _, _, cover = shapes._render(24, size, 3)
    for box, drawn in zip(pictures.boxes.int().tolist(), cover > 0, strict=True):
        x0, y0, x1, y1 = box
        inside = drawn[y0:y1, x0:x1]
        assert inside.sum() == drawn.sum()
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any()


def test_the_weights_come_in_a_small_file_of_half_floats():
    assert model._WEIGHTS.stat().st_size <= 500_000
    state = torch.load(model._WEIGHTS, weights_only=True)
    floats = [value for value in state.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float16}


def test_the_network_is_built_as_promised():
    net = shapes_model()
    assert not net.training
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert 60_000 <= sum(p.numel() for p in net.parameters()) <= 120_000
    for name in ("block1", "block2", "block3", "block4", "block5"):
        assert isinstance(getattr(net, name).pool, nn.MaxPool2d)


@pytest.mark.parametrize("size", [64, 75, 160])
def test_the_network_takes_any_size(size):
    net = shapes_model()
    images = shape_pictures(2, size=size).images
    probabilities = net(images)
    assert probabilities.shape == (2, len(CLASSES))
    assert torch.allclose(probabilities, net.logits(images).softmax(1), atol=1e-6)


def test_without_weights_the_network_is_random():
    torch.manual_seed(0)
    one = shapes_model(pretrained=False)
    two = shapes_model(pretrained=False)
    assert isinstance(one, ShapesNet)
    assert not one.training
    assert not torch.equal(one.linear.weight, two.linear.weight)


def test_a_seed_gives_its_pictures_whatever_their_number():
    eight = shape_pictures(8, size=64, seed=5)
    for n in (1, 3, 8):
        for few, all_ in zip(shape_pictures(n, size=64, seed=5), eight, strict=True):
            assert torch.equal(few, all_[:n])
    other = shape_pictures(8, size=64, seed=6)
    assert not torch.isclose(other.images, eight.images).all()


def test_the_global_random_state_is_left_alone(monkeypatch):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    pictures = shape_pictures(2, size=64)
    monkeypatch.setattr(train, "_BATCH", 4)
    train.train(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(shape_pictures(2, size=64).images, pictures.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": 1, "size": 63}, "size must be at least 64 pixels, got 63"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        shape_pictures(**options)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        train.train(0)


def test_training_writes_weights_and_repeats(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(train, "_BATCH", 4)
    monkeypatch.setattr(train, "accuracy", lambda net: 0.5)
    for name in ("one.pt", "two.pt"):
        train.main(["--out", str(tmp_path / name), "--steps", "2", "--seed", "3"])
    assert "accuracy on fresh pictures 50.0%" in capsys.readouterr().out
    one, two = (
        torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt")
    )
    ShapesNet().load_state_dict(one)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_accuracy_is_the_share_of_right_guesses():
    assert train.accuracy(shapes_model(), n=32) >= 0.9
    assert train.accuracy(shapes_model(pretrained=False), n=32) < 0.5


def test_masks_are_the_pixels_that_the_shapes_take():
    pictures, masks = shape_pictures(12, 64, 3), shape_masks(12, 64, 3)
    for box, mask in zip(pictures.boxes.int().tolist(), masks, strict=True):
        x0, y0, x1, y1 = box
        assert mask.any() and mask[y0:y1, x0:x1].sum() == mask.sum()
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert rows[-1] - rows[0] + 1 >= y1 - y0 - 2
        assert columns[-1] - columns[0] + 1 >= x1 - x0 - 2
    with pytest.raises(ValueError, match="size must be at least 64 pixels, got 63"):
        shape_masks(1, 63)
