"""The networks that are explained, and transforms of their layers' outputs."""

import contextlib
import copy
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torchvision
from torch import Tensor
from torch.nn import Module

from captum_cams.evaluation.checkpoints import (
    StateDict,
    check_finite,
    load_weights,
    read_state_dicts,
)
from captum_cams.evaluation.errors import UserError, brief_error, closest_names
from captum_cams.evaluation.outputs import (
    ENDS,
    MISFITS,
    NO_LOGITS,
    OUTPUTS,
    agree,
    check_given,
    class_scores,
    describe_output,
    softmax,
    unchanged,
    what_is_given,
)
from captum_cams.evaluation.processes import seeded
from captum_cams.evaluation.user_code import import_object, parse_call
from captum_cams.examples import CLASSES, shapes_model
from captum_cams.reshape import Transform, channels_last, vit_tokens

models: Any = torchvision.models  # its types leave out what is public

EXPLAIN = ("probabilities", "logits", "sigmoid", "model")
"""The outputs that can be explained, see :func:`choose_output`."""
_PROBED = 8  # outputs that tell a model from another one


class Network(NamedTuple):
    """A model, the size and normalization of its pictures, and its outputs."""

    name: str
    model: Module
    classes: Sequence[str] = ()
    wnids: Sequence[str] = ()
    """WordNet's ids of the classes; empty where unknown."""
    size: int = 224
    mean: Sequence[float] = (0, 0, 0)
    std: Sequence[float] = (1, 1, 1)
    to_explained: Callable[[Tensor], Tensor] = softmax
    """Makes the outputs that are explained of what the model gives."""
    to_measured: Callable[[Tensor], Tensor] = softmax
    """Makes the confidences that metrics measure of what the model gives."""
    explains_probabilities: bool = True
    """Whether the explained outputs are probabilities, which have a logarithm."""
    given: str = "scores"
    """What the model gave when the outputs were chosen: ``scores``, ``shares`` that add
    up to 1, or each by itself in [0, 1], as of a ``sigmoid``."""
    is_checked: bool = False
    """Whether :meth:`forward` stops where the model gives something else."""

    def explained(self, inputs: Tensor) -> Tensor:
        """The outputs that are explained, (N, classes)."""
        return self.to_explained(self.scores(self.model(inputs)))

    @property
    def measures_explained(self) -> bool:
        """Whether what is explained and what is measured are the same outputs."""
        return self.to_explained is self.to_measured

    def log_explained(self, inputs: Tensor) -> Tensor:
        """Scores S where probabilities exp S are explained, (N, classes)."""
        outputs = self.explained(inputs)
        if not self.explains_probabilities:
            return outputs
        return outputs.clamp(min=1e-30).log()

    def forward(self, inputs: Tensor) -> Tensor:
        """The confidences that are measured, (N, classes)."""
        outputs = self.scores(self.model(inputs))
        # Not of explained outputs, too: a GPU would wait for each pass of a method.
        if self.is_checked:
            check_given(self.name, outputs, self.given)
        return self.to_measured(outputs)

    def scores(self, outputs: Any) -> Tensor:
        """The class scores in the model's output, (N, classes)."""
        found = class_scores(outputs)
        if found is None or found.dim() != 2:
            came = describe_output(outputs if found is None else found)
            raise UserError(
                f"{self.name} must give one row of class scores a picture, (N, "
                f"classes), got {came}; wrap it in a module that does"
            )
        return found

    def normalize(self, images: Tensor) -> Tensor:
        """Normalizes pictures in [0, 1] as the model expects."""
        mean, std = (
            images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std)
        )
        return (images - mean) / std

    def colors(self, images: Tensor) -> dict[str, Tensor]:
        """A normalized black and a normalized white picture, (1, 3, H, W)."""
        return {
            "black": self.normalize(torch.zeros_like(images[:1])),
            "white": self.normalize(torch.ones_like(images[:1])),
        }


def choose_output(network: Network, explain: str, images: Tensor) -> Network:
    """
    The network with the output that is explained, and the one that is measured.

    What the model gives is told from its outputs at noise of several strengths: class
    scores, shares that always add up to 1, or else values that always lie in [0, 1], as
    a sigmoid's do.

    Args:
        network (Network): As it was loaded.
        explain (str): ``probabilities``: the softmax of class scores, or shares as
            they are. ``logits``: class scores as they are; a `Softmax` or `Sigmoid` at
            the model's end is taken out. ``sigmoid``: the sigmoid of class scores, for
            classes that do not exclude each other, or a sigmoid's values as they are.
            ``model``: what the model gives, untouched. Metrics measure the output that
            is explained, but for logits, whose probabilities they measure.
        images (Tensor): A picture, (1, 3, H, W), for its size and device.

    Raises:
        UserError: If the model does not give what that needs.
    """
    _store_channels_last(network, images)
    probes = _probes(network, images)
    given = what_is_given([outputs for _, outputs in probes])
    if (explain, given) in MISFITS:
        raise UserError(MISFITS[explain, given].format(network.name))
    if explain == "logits" and given != "scores":
        _take_out_end(network, given, probes)
    explained, measured = OUTPUTS[explain, given]
    if softmax in (explained, measured) and probes[0][1].shape[1] < 2:
        raise UserError(
            f"{network.name} must give two or more class scores a picture, got one, "
            "whose share of all is always 1; choose --explain sigmoid, or --explain "
            "model to take it as it is"
        )
    return network._replace(
        to_explained=explained,
        to_measured=measured,
        explains_probabilities=explain != "logits"
        and (explained is not unchanged or given != "scores"),
        given=given,
        is_checked=explain in ("probabilities", "sigmoid") and given != "scores",
    )


def probe_output(network: Network, images: Tensor) -> list[float | None]:
    """
    The first outputs that are explained, at noise that is always the same.

    Another model differs in them where its weights are the same. None stands for NaN
    and infinity.

    Args:
        network (Network): With its outputs chosen.
        images (Tensor): A picture, (1, 3, H, W), for its size and device.
    """
    with torch.no_grad(), seeded(0, images.device):
        outputs = network.explained(_noise(network, images))[0, :_PROBED].tolist()
    return [value if math.isfinite(value) else None for value in outputs]


def _noise(network: Network, images: Tensor) -> Tensor:
    """A picture of noise, normalized."""
    generator = torch.Generator().manual_seed(0)
    return network.normalize(torch.rand(images.shape, generator=generator).to(images))


def _store_channels_last(network: Network, images: Tensor) -> None:
    """
    Stores the weights of convolutions channels last, as the CPU computes faster.

    The layers' outputs are stored so, too, which a model's own code need not expect
    (`view` fails); its weights stay as they are then. Other devices keep their order.
    """
    if images.device.type != "cpu":
        return
    model = cast(Any, network.model)
    model.to(memory_format=torch.channels_last)
    try:
        with torch.enable_grad():
            inputs = network.normalize(images).clone().requires_grad_()
            torch.autograd.grad(network.scores(model(inputs)).sum(), inputs)
    except Exception:
        model.to(memory_format=torch.contiguous_format)


def _probes(network: Network, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """
    Inputs and what the model gives of them, (1, classes) each.

    They are noise as strong as a picture, and much stronger, which scores follow.
    """
    noise = _noise(network, images)
    try:
        probes = [(noise, _outputs_at(network, noise))]
    except UserError:
        raise
    except Exception as error:  # the model's own code
        raise failure(network, error) from error
    for strength in (30.0, -1e3, 1e6):
        # A model may refuse what no picture holds.
        with contextlib.suppress(Exception):
            strong = strength * noise
            probes.append((strong, _outputs_at(network, strong)))
    return probes


def failure(network: Network, error: Exception) -> UserError:
    """What a user is told where a pass of the model fails."""
    return UserError(
        f"{network.name} fails on a picture of {network.size} x {network.size}: "
        f"{brief_error(error)}"
    )


def _outputs_at(network: Network, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        # A copy, as models may write to their input.
        return network.scores(network.model(inputs.clone()))


def _take_out_end(
    network: Network, given: str, probes: Sequence[tuple[Tensor, Tensor]]
) -> None:
    """Takes out the module at the model's end that makes probabilities of scores."""
    kind, function = ENDS[given]
    ends = [n for n, m in network.model.named_modules() if isinstance(m, kind) and n]
    for name in reversed(ends):
        end = network.model.get_submodule(name)
        network.model.set_submodule(name, torch.nn.Identity())
        if all(
            agree(function(_outputs_at(network, inputs)), outputs)
            for inputs, outputs in probes
        ):
            return
        network.model.set_submodule(name, end)
    other = "probabilities" if given == "shares" else given
    raise UserError(NO_LOGITS.format(network.name, kind.__name__, other))


def load_network(
    model: str | Module | None = None,
    weights: str | Path | None = None,
    *,
    num_classes: int | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """
    A network in evaluation mode and single precision.

    Args:
        model (str or Module, optional): A classifier of torchvision by its name,
            ``"module:callable"`` for a function or class of the user's, or a model,
            which is copied. Default: None, the network of the examples
        weights (str or Path, optional): A file with a state dict, or those that
            torchvision downloads by their name, such as ``"DEFAULT"`` or
            ``"IMAGENET1K_V1"``. Default: None, as the model is built
        num_classes (int, optional): That the model is built with, such as the number
            of classes that a network was fine-tuned to. Default: None, the model's own
        size (int, optional): Height and width of its pictures. Default: None, as
            torchvision's model wants them, else 224
        mean (sequence of float, optional): Of the colors in [0, 1]. Default: None,
            as torchvision's model wants it, else 0
        std (sequence of float, optional): As `mean`, else 1. Default: None

    Raises:
        UserError: If there is no such model or file, or the two do not match.
    """
    if isinstance(model, str) and ":" not in model:
        network = _torchvision_network(model, weights, num_classes)
    elif weights == "DEFAULT":
        raise UserError("weights DEFAULT is for torchvision's models; give a file")
    else:
        network = _other_network(model, num_classes)
        if weights is not None:
            path = str(weights)
            load_weights(network.model, read_state_dicts(path), path, network.name)
    network.model.float().eval()
    own = f"weights of {network.name}"
    check_finite(network.model, own if weights is None else f"weights {weights}")
    given: dict[str, Any] = {"size": size, "mean": mean, "std": std}
    return network._replace(**{key: v for key, v in given.items() if v is not None})


def _other_network(model: str | Module | None, num_classes: int | None) -> Network:
    """That of the examples, or one of the user's."""
    if num_classes is not None and not isinstance(model, str):
        raise UserError(
            "num_classes is for models that are built by their name; this one has its "
            "classes already"
        )
    if model is None:
        return Network("the example network", shapes_model(), CLASSES, size=128)
    name = model if isinstance(model, str) else type(model).__name__
    built: object = _built(model, num_classes) if isinstance(model, str) else model
    if not isinstance(built, Module):
        raise UserError(
            f"model {name} must be or return a torch.nn.Module, got "
            f"{type(built).__name__}"
        )
    if isinstance(built, torch.jit.ScriptModule):
        raise UserError(
            f"model {name} must have layers that can be hooked, got a model that "
            "torch.jit traced or scripted; give the module that it was made of"
        )
    # Weights are loaded in the precision that the network computes in.
    return Network(name, copy.deepcopy(built).float())


def _built(name: str, num_classes: int | None) -> object:
    """What ``module:callable`` is or returns."""
    arguments = {} if num_classes is None else {"num_classes": num_classes}
    try:
        found = import_object(name)
        if not isinstance(found, Module):
            return found(**arguments)
        if arguments:
            raise TypeError("it is a model already, which num_classes does not change")
        return found
    except Exception as error:  # the user's own code
        raise UserError(f"cannot build model {name}: {brief_error(error)}") from error


def _torchvision_network(
    name: str, weights: str | Path | None, num_classes: int | None
) -> Network:
    """One of torchvision's, with its own weights or those of a file."""
    known = models.list_models(module=models)
    if name.lower() not in known:
        raise UserError(
            f"torchvision has no classifier {name!r}; {closest_names(name, known)}"
        )
    known_weights = models.get_model_weights(name)
    chosen = known_weights.__members__.get(str(weights))
    path = None if weights is None or chosen is not None else str(weights)
    states = {} if path is None else read_state_dicts(path)
    arguments = _arguments_of_weights(name, states) if states else {}
    of = chosen or known_weights.DEFAULT
    classes = of.meta["categories"]
    if num_classes is not None and num_classes != len(classes):
        if chosen is not None:
            raise UserError(
                f"weights {weights} of {name} have {len(classes)} classes, not "
                f"{num_classes}; num_classes is for a file of a network that was "
                "trained on others"
            )
        arguments["num_classes"], classes = num_classes, ()
    try:
        model = models.get_model(name, weights=chosen, **arguments)
    except (OSError, RuntimeError) as error:  # no network, or a broken file
        raise UserError(
            f"cannot download the weights of {name}: {brief_error(error)}"
        ) from error
    wanted = of.transforms()
    network = Network(
        name,
        model,
        classes,
        # Vision transformers take pictures of one size alone.
        size=getattr(model, "image_size", wanted.crop_size[0]),
        mean=wanted.mean,
        std=wanted.std,
    )
    if path is not None:
        load_weights(model, states, path, name)
        if isinstance(model, models.GoogLeNet):
            # As torchvision leaves it, whether the file holds these heads or not.
            model.aux_logits, model.aux1, model.aux2 = False, None, None
    return network


def _arguments_of_weights(name: str, states: Mapping[str, StateDict]) -> dict[str, Any]:
    """The arguments that torchvision's builder sets where it loads such weights."""
    held = {key: value for state in states.values() for key, value in state.items()}
    if name.lower() in ("googlenet", "inception_v3"):
        heads = any(re.search(r"\b(aux1|AuxLogits)\.", key) for key in held)
        return {"transform_input": True, "init_weights": False, "aux_logits": heads}
    if name.lower().startswith("vit_"):
        side = int(name.rpartition("_")[2])  # of a patch
        for key, value in held.items():
            if key.endswith("encoder.pos_embedding") and value.dim() == 3:
                # One position is that of the class token.
                return {"image_size": side * math.isqrt(value.shape[1] - 1)}
    return {}


_UNKNOWN_RESHAPE = (
    "--reshape must be vit_tokens, channels_last or module:callable, got {!r}"
)


def load_transform(reshape: str | Transform | None) -> Transform | None:
    """
    What makes feature maps of a layer's output.

    Args:
        reshape (str or Callable, optional): ``"vit_tokens"`` or ``"channels_last"``,
            with arguments where wanted, such as ``"vit_tokens(prefix_tokens=2)"``,
            ``"module:callable"``, or a function. Default: None

    Raises:
        UserError: If there is no such function.
    """
    if reshape is None or callable(reshape):
        return reshape
    if not isinstance(reshape, str):
        raise UserError(_UNKNOWN_RESHAPE.format(reshape))
    if ":" in reshape and "(" not in reshape:
        try:
            transform: Any = import_object(reshape)
        except Exception as error:  # the user's own code
            raise UserError(
                f"cannot import --reshape {reshape}: {brief_error(error)}"
            ) from error
        if not callable(transform):
            raise UserError(
                f"--reshape {reshape} must be a function of what the layer gives, got "
                f"{type(transform).__name__}"
            )
        return cast(Transform, transform)
    name, arguments = parse_call(reshape)
    known: dict[str, Callable[..., Tensor]] = {
        "vit_tokens": vit_tokens,
        "channels_last": channels_last,
    }
    if arguments is None or name not in known:
        raise UserError(_UNKNOWN_RESHAPE.format(reshape))
    parameters = inspect.signature(known[name]).parameters
    for key in arguments:
        if key not in parameters:
            raise UserError(
                f"{name} has no argument {key!r}; {closest_names(key, parameters)}"
            )
    return partial(known[name], **arguments) if arguments else known[name]


def transform_name(transform: Transform | None) -> str:
    """How a transform is written in arguments and results."""
    if transform is None:
        return "none"
    if isinstance(transform, partial):
        bound = ", ".join(
            f"{key}={value!r}" for key, value in transform.keywords.items()
        )
        return f"{transform_name(transform.func)}({bound})"
    name = getattr(transform, "__qualname__", type(transform).__qualname__)
    module = getattr(transform, "__module__", None)
    return name if module == vit_tokens.__module__ else f"{module}:{name}"
