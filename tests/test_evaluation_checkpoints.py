"""Files of weights as people have them: all that fit are loaded, others explained."""

import argparse
import copy
import io
import re
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models import vision_transformer
from torchvision.models._api import WeightsEnum

from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.networks import load_network
from tests.models import random

X = random(2, 3, 8, 8).float()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def network(seed=0, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), flat=nn.Flatten(),
                fc=nn.Linear(144, classes),
            )
        ).eval()  # fmt: skip


STATE = network(1).state_dict()
OTHER = network(2).state_dict()


def under(prefix, state=STATE):
    return {prefix + name: value for name, value in state.items()}


def averaged():
    return torch.optim.swa_utils.AveragedModel(network(1)).state_dict()


def compiled():
    """As if a part alone had been compiled, and another been given to all GPUs."""
    names = {"conv.": "conv._orig_mod.", "fc.": "fc.module."}
    return {
        re.sub(r"^\w+\.", lambda m: names.get(m[0], m[0]), name): value
        for name, value in STATE.items()
    }


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        dict(STATE),
        {"state_dict": STATE, "best_acc1": torch.tensor(76.0), "epoch": 3},
        {"model": STATE, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=1)},
        {"network": under("module.")},
        {"generator": STATE},
        {"checkpoint": OTHER | {"more": torch.ones(1)}, "mine": STATE},
        {"ema": OTHER, "model": STATE},
        {"other": OTHER, "ema": STATE},
        {"params": {"one": torch.ones(1)}, "b": STATE, "c": {"fc.bias": torch.ones(3)}},
        under("module."),
        under("_orig_mod."),
        under("module._orig_mod."),
        {"state_dict": under("model.")},
        under("model.module."),
        under("_orig_mod.model."),
        under("module.backbone.body."),
        compiled(),
        averaged(),
        {"model_ema": averaged()},
        {name: value.double() for name, value in STATE.items()},
    ],
)  # fmt: skip
def test_the_state_dict_that_fits_is_loaded(content):
    torch.save(content, "weights.pt")
    found = load_network(network(), "weights.pt")
    torch.testing.assert_close(found.model.state_dict(), STATE)
    # By a wrapped model, too.
    found = load_network(nn.DataParallel(network()), "weights.pt")
    torch.testing.assert_close(found.model.module.state_dict(), STATE)


def test_files_of_older_versions_and_formats():
    """As `torch.save` wrote before 1.6, and BatchNorm before 0.4.1."""
    state = {n: v for n, v in STATE.items() if not n.endswith("batches_tracked")}
    torch.save(under("module.", state), "old.pt", _use_new_zipfile_serialization=False)
    found = load_network(network(), "old.pt").model.state_dict()
    torch.testing.assert_close({name: found[name] for name in state}, state)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors(name):
    torch_safe = pytest.importorskip("safetensors.torch")
    torch_safe.save_file({k: v.contiguous() for k, v in STATE.items()}, name)
    found = load_network(network(), name)
    torch.testing.assert_close(found.model.state_dict(), STATE)
    content = Path(name).read_bytes()
    Path("cut.safetensors").write_bytes(content[:-8])
    with pytest.raises(UserError, match=r"cut\.safetensors: cut short, or no file of"):
        load_network(network(), "cut.safetensors")


def test_safetensors_is_asked_for(monkeypatch):
    header = b'{"__metadata__":{}}'
    Path("weights").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    words = "weights weights need safetensors; pip install 'captum-cams[safetensors]'"
    with pytest.raises(UserError, match=re.escape(words)):
        load_network(network(), "weights")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            {"a": STATE, "b": OTHER},
            "hold several state dicts that fit Sequential, under 'a' and 'b'; write",
        ),
        (
            network(classes=10).state_dict(),
            "do not fit Sequential: the state dict has fc.weight of shape (10, 144) for "
            "(3, 144) and 1 more; for another number of classes, as fine-tuning",
        ),
        (
            {"net": under("module.", {"fc.bias": STATE["fc.bias"], "a": X, "b": X})},
            "the state dict under 'net', its prefix 'module.' taken away, lacks "
            "conv.weight and 7 more, adds a and 1 more",
        ),
        (
            under("model.") | {"loss.weight": X},
            "the state dict, its prefix 'model.' taken away, adds loss.weight",
        ),
        (
            under("model.") | {"fc.bias": X},
            "its prefix 'model.' taken away, adds fc.bias (without the prefix)",
        ),
        (
            {"model": under("a."), "ema": under("b.") | {"x": X}} | {"model": {"x": X}},
            "under 'ema', its prefix 'b.' taken away, adds x",
        ),
        ({"lr": 3, "epoch": 1}, "alone or under a key such as state_dict, got a dict of lr, epoch; write one with torch.save(model.state_dict(), FILE)"),
        ({}, "got dict; write one"),
        (torch.ones(3), "got Tensor; write one"),
        (network(), "got a pickled torch.nn.modules.container.Sequential, which could"),
        (
            {"state_dict": STATE, "best": np.float64(3)},
            "must hold tensors and plain values, got a pickled numpy.",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(content, words):
    torch.save(content, "weights.pt")
    with pytest.raises(UserError, match=re.escape(words)) as found:
        load_network(network(), "weights.pt")
    assert "\n" not in str(found.value) and "weights.pt" in str(found.value)


def archive(*names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name in names:
            written.writestr(name, "content")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.pt", b"", "but it is empty"),
        ("a.pt", b"\n<!DOCTYPE html><html>404", "but it is a web page, as of a download"),
        ("a.pt", b"<html><head>", "but it is a web page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "but it is a pointer of Git LFS; `git lfs pull` brings"),
        ("a.pt", "epoch: 3\nbéta: 1\n".encode() * 300, "but it is a text file"),
        ("a.npy", b"\x93NUMPY\x01\x00v", "but it is an array of NumPy"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "but it is an HDF5 file"),
        ("a.npz", archive("conv.npy", "fc.npy"), "but it is a .npz archive of NumPy"),
        ("a.zip", archive("a.txt"), "but it is a zip archive of other files"),
        ("a.pt", archive("net/data.pkl", "net/constants.pkl"), "but it is a TorchScript model, whose layers cannot"),
        ("a.pt", archive("net/data.pkl")[:-30], "but it is cut short or broken; copy or"),
        ("a.pt", archive("net/data.pkl"), "not a state dict saved by torch.save, or cut"),
        ("net.onnx", b"\x08\x07\x12\x07pytorch", "but it is a model of ONNX"),
        ("net", b"\x08\n\x12\x07pytorch\x1a", "but it is a model of ONNX"),
        ("a.pt", b"\x80\x02}q\x00.", "cannot read weights a.pt: not a state dict saved"),
    ],
)  # fmt: skip
def test_files_that_hold_no_weights_are_named(name, content, words):
    Path(name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(words)) as found:
        load_network(network(), name)
    assert "\n" not in str(found.value) and name in str(found.value)


def test_a_folder_and_a_file_cut_short():
    Path("weights").mkdir()
    with pytest.raises(UserError, match="cannot read weights weights: Is a directory"):
        load_network(network(), "weights")
    for new in (True, False):
        torch.save(STATE, "weights.pt", _use_new_zipfile_serialization=new)
        Path("cut.pt").write_bytes(Path("weights.pt").read_bytes()[:-100])
        with pytest.raises(UserError, match=r"cut\.pt.*cut short"):
            load_network(network(), "cut.pt")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_are_numbers(value):
    broken = {name: one.clone() for name, one in STATE.items()}
    broken["norm.running_var"][1] = broken["fc.bias"][0] = abs(value)
    broken["conv.weight"][2] = value
    torch.save(broken, "weights.pt")
    words = "must be finite, got NaN or infinity in conv.weight and 2 more; give"
    with pytest.raises(UserError, match=f"weights weights.pt {words}"):
        load_network(network(), "weights.pt")
    model = network()
    model.load_state_dict(broken)
    with pytest.raises(UserError, match=f"weights of Sequential {words}"):
        load_network(model)


def test_a_mask_of_attention_may_be_infinite():
    model = network()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]), persistent=False)
    load_network(model)
    model.mask[0] = torch.nan
    with pytest.raises(UserError, match="got NaN or infinity in mask;"):
        load_network(model)


def test_weights_keep_their_precision_where_the_model_is_in_half():
    large = {n: v * 1e5 if v.is_floating_point() else v for n, v in STATE.items()}
    torch.save(large, "weights.pt")
    found = load_network(network().half(), "weights.pt")
    torch.testing.assert_close(found.model.state_dict(), large)


def small_vit(*, build=vision_transformer.VisionTransformer, **arguments):
    small = {"num_layers": 1, "hidden_dim": 24, "num_heads": 2, "mlp_dim": 8}
    return build(**arguments | small)


def old_names(state):
    """As torchvision's files of DenseNet have them, which are older than counters."""
    return {
        re.sub(r"(layer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize(
    ("name", "arguments", "size"),
    [
        ("googlenet", {"init_weights": False}, 64),
        ("inception_v3", {"init_weights": False}, 80),
        ("vit_b_32", {"image_size": 96}, 96),
        ("vit_h_14", {"image_size": 28}, 28),
        ("mnasnet0_5", {}, 32),
        ("densenet121", {}, 32),
    ],
)
def test_a_file_gives_what_torchvision_builds_for_weights(
    name, arguments, size, monkeypatch
):
    """Its builder's arguments for weights, and files with and without further heads."""
    monkeypatch.setattr(vision_transformer, "VisionTransformer", small_vit)
    state = models.get_model(name, weights=None, **arguments).state_dict()
    generator = torch.Generator().manual_seed(0)
    for key, value in state.items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(0.1 * noise if "running_mean" in key else 0.5 + noise)
            value /= value[0].numel() if value.dim() > 1 else 1
    downloaded = old_names(state) if name == "densenet121" else state
    monkeypatch.setattr(
        WeightsEnum, "get_state_dict", lambda *_, **__: copy.copy(downloaded)
    )
    of = models.get_model_weights(name).DEFAULT
    monkeypatch.setitem(of.meta, "min_size", (size, size))
    wanted = models.get_model(name, weights=of).eval()
    x = random(2, 3, size, size).float()
    for content in (downloaded, wanted.state_dict(), {"model": under("module.", downloaded)}):  # fmt: skip
        torch.save(content, "weights.pt")
        found = load_network(name, "weights.pt")
        if name.startswith("vit"):
            assert found.size == size
        assert found.model.state_dict().keys() == wanted.state_dict().keys()
        with torch.no_grad():
            outputs = wanted(x)
            assert outputs.std(0).max() > 0
            torch.testing.assert_close(found.model(x), outputs)
    assert load_network(name, "weights.pt", size=40).size == 40
