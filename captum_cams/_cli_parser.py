"""The arguments of the command line, and what is wrong with them in one sentence."""

import argparse
import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from captum_cams.attr.registry import METHODS
from captum_cams.evaluation.datasets import DATASETS
from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.folders import is_picture
from captum_cams.evaluation.methods import parse_method
from captum_cams.evaluation.metrics import METRICS
from captum_cams.evaluation.networks import EXPLAIN
from captum_cams.evaluation.papers import FINE_TUNING, PAPERS, PRESETS
from captum_cams.evaluation.pictures import RESIZE
from captum_cams.evaluation.settings import TARGETS
from captum_cams.evaluation.user_code import parse_call, split_names

_DEFAULT_METHODS = ["grad-cam", "rsi-grad-cam", "integrated-grad-cam", "group-cam"]
_LARGEST_SIZE = 2**13  # pixels of a side; methods hold many pictures at once
_OF_YOUR_OWN = (
    "or module:class for a class of your own, with arguments where wanted, such as "
    '"group-cam(groups=8)"'
)

SAVE = ("figure", "overlay", "map", "array", "json")
"""What `explain` can save of a picture."""


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.description = "Explain a few example pictures, methods side by side."
    _add_methods(demo)
    _add_out(demo, "the figure")
    _add_quiet(demo)


def _add_explain(explain: argparse.ArgumentParser) -> None:
    explain.description = (
        "Explain what a network sees in pictures, with several methods side by side."
        "\n\nMaps are of the probability of one class: the softmax of the model's "
        "outputs, or the\noutputs themselves where they are probabilities already; "
        "--explain chooses another\noutput. Paths start at a black picture."
    )
    explain.epilog = (
        "examples:\n"
        "  captum-cams explain cat.jpg --model resnet50 --weights DEFAULT\n"
        "  captum-cams explain pictures/ --model my_package.nets:build "
        "--layers features.7,features.12\n"
        "  captum-cams explain 'cats/*.png' --model resnet50 --weights tuned.pt "
        "--num-classes 5\n      --classes names.txt --target top3 --save figure,json\n"
        "  captum-cams explain cat.jpg --model resnet50 --weights DEFAULT "
        "--methods grad-cam,my_package.cams:MyCam\n"
    )
    add = explain.add_argument
    add(
        "images",
        metavar="PICTURE",
        nargs="*",
        help="files, folders, patterns in quotes, or - for one on the standard input",
    )
    _add_network(explain, resize="crop", default=None)
    _add_explained(explain)
    _add_layers(explain, "the picture on which the scores depend", "--layer")
    _add_reshape(explain)
    _add_methods(explain)
    add(
        "--target",
        metavar="T1,T2",
        type=_name,
        default="top1",
        help="the classes to explain: indices (as any number is read), names, or topK "
        "for the K most probable ones of each picture (default: top1)",
    )
    add(
        "--save",
        metavar="KIND,KIND",
        type=_save,
        default=["figure"],
        help=f"of {', '.join(SAVE)}: a figure of all maps beside the picture, the "
        "picture under each map, each map in gray, all maps as arrays in one .npz "
        "file, classes and maps in numbers; of each picture, named after it (default: "
        "figure)",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace files that are there already (default: stop before the work)",
    )
    add("--device", metavar="D", help="default: a GPU where there is one, else the CPU")
    _add_out(explain, "the files")
    _add_quiet(explain)
    explain.set_defaults(more_images=[])


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.description = (
        "Explain and measure a data set as the papers do, and write their tables and "
        "figures.\n\nThe same command goes on with a run that was stopped. On several "
        "devices:\n  torchrun --nproc-per-node P -m captum_cams evaluate ...\nOn the "
        "CPU each process computes on one thread, so that gives it all cores, too."
    )
    evaluate.epilog = (
        "examples:\n"
        "  captum-cams evaluate --out shapes\n"
        "  captum-cams evaluate --dataset voc --root DIR --model my.nets:voc "
        "--protocol igc\n"
        "  captum-cams evaluate --dataset imagenet --root ILSVRC --model resnet50 "
        "--weights DEFAULT --limit 1000\n"
    )
    _add_dataset(evaluate)
    _add_network(evaluate, resize="squash")
    _add_layers(
        evaluate,
        "the pictures on which the scores depend; block4 of the network of the "
        "examples",
    )
    _add_reshape(evaluate)
    _add_explained(evaluate)
    evaluate.add_argument(
        "--target",
        choices=TARGETS,
        help="the class that a picture is explained for: its label, or each of several "
        "(default, but for presets), or the predicted one, with the boxes of that "
        "class",
    )
    _add_protocol(evaluate)
    _add_run(evaluate)
    _add_out(evaluate, "the results", "captum-cams-evaluation")
    _add_quiet(evaluate)


def _add_fine_tune(fine_tune: argparse.ArgumentParser) -> None:
    fine_tune.description = (
        "Train a network on pictures in which what Group-CAM holds for unimportant is "
        "blurred,\nas section 5 of its paper does, and from the same weights on the "
        "same pictures as they\nare; compare the top-1 of both.\n\nThe same command "
        "goes on with a run that was stopped, from the last epoch."
    )
    fine_tune.epilog = (
        "examples:\n"
        "  captum-cams fine-tune --out shapes\n"
        "  captum-cams fine-tune --root imagenet --model resnet50 "
        "--weights IMAGENET1K_V1 --workers 16\n"
    )
    add = fine_tune.add_argument
    add(
        "--root",
        metavar="DIR",
        help="holds the folders train and val, each with a folder of pictures for each "
        "class, as torchvision's ImageNet lays them out (default: shapes that are "
        "drawn)",
    )
    _add_network(fine_tune)
    add(
        "--layer",
        metavar="PATH",
        type=_name,
        help="dotted name of the layer that gives the masks (default: the last one "
        "that gives feature maps of the pictures on which the scores depend; block4 of "
        "the network of the examples)",
    )
    add("--epochs", metavar="N", type=_count, default=20, help="default: 20")
    add("--batch-size", metavar="B", type=_count, default=256, help="default: 256")
    add(
        "--learning-rate",
        metavar="R",
        type=_positive,
        default=1e-3,
        help="of the first 15 epochs, and a tenth of it for the next (default: 0.001)",
    )
    add(
        "--groups",
        metavar="G",
        type=_count,
        default=16,
        help="of the blend's masks (default: 16)",
    )
    add(
        "--workers",
        metavar="N",
        type=partial(_count, least=0),
        default=0,
        help="processes that read pictures (default: 0, the command's own)",
    )
    _add_device(fine_tune)
    _add_out(fine_tune, "the results", "captum-cams-fine-tuning")
    _add_quiet(fine_tune)


def _add_dataset(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--dataset",
        choices=DATASETS,
        help="shapes are the package's own (default, but for presets), imagenet is the "
        "validation set in its official layout, folder one of pictures for each class",
    )
    add("--root", metavar="DIR", help="folder of the data set")
    add(
        "--split",
        metavar="NAME",
        help="of voc, such as 2012-val, or coco, such as val2017 (default: the first "
        "of the usual ones that is there)",
    )
    add(
        "--labels",
        metavar="FILE",
        help="for imagenet without its list of classes: a CSV file with the columns "
        "picture and class, its index in the network's output",
    )


def _add_protocol(command: argparse.ArgumentParser) -> None:
    """What is compared, and by what."""
    add = command.add_argument
    add(
        "--methods",
        metavar="M1,M2",
        nargs="+",
        action=_Words,
        type=_names,
        help=f"for all protocols: of {', '.join(METHODS)}, {_OF_YOUR_OWN} (default: "
        "those of each protocol)",
    )
    add(
        "--metrics",
        metavar="M1,M2",
        type=_names,
        help=f"for all protocols: of {', '.join(METRICS)} (default: those of each "
        "protocol)",
    )
    add(
        "--preset",
        choices=[*PRESETS, FINE_TUNING],
        help="the set-up of a paper's experiments, for all that is not given; "
        f"{FINE_TUNING} is the command fine-tune",
    )
    add(
        "--protocol",
        choices=[*PAPERS, "all"],
        help="the paper to follow (default: the preset's, or all)",
    )


def _add_run(command: argparse.ArgumentParser) -> None:
    """How much is computed, and where."""
    add = command.add_argument
    add("--limit", metavar="N", type=_count, help="N pictures, drawn by the seed")
    add("--batch-size", metavar="B", type=_count, default=8, help="default: 8")
    add(
        "--sanity-pictures",
        metavar="N",
        type=partial(_count, least=0),
        default=2,
        help="how many are explained again while layers lose their weights "
        "(default: 2)",
    )
    _add_device(command)


def _add_device(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--device", metavar="D", help="default: the process' own GPU, else the CPU")
    seed = partial(_count, least=-(2**63), most=2**64 - 1)  # as PyTorch takes them
    add("--seed", metavar="S", type=seed, default=0, help="default: 0")


def _add_network(
    command: argparse.ArgumentParser,
    resize: str | None = None,
    default: str | None = "the network of the examples",
) -> None:
    """What the network is, and how pictures become its inputs."""
    add = command.add_argument
    add(
        "--model",
        metavar="NAME",
        help="a classifier of torchvision by its name, or module:callable for what "
        "your own function or class returns "
        + (f"(default: {default})" if default else "(required)"),
    )
    add(
        "--weights",
        metavar="FILE|NAME",
        help="a file with the model's state dict, of torch.save or safetensors, alone "
        "or in a checkpoint, or those that torchvision downloads by their name, such "
        "as DEFAULT or IMAGENET1K_V1 (default: as the model is built)",
    )
    add(
        "--classes",
        metavar="FILE",
        help="names of the model's outputs, one a line or in JSON, such as ImageNet's "
        "LOC_synset_mapping.txt (default: torchvision's where the model is theirs)",
    )
    add(
        "--num-classes",
        metavar="N",
        type=_count,
        help="that the model is built with, as for weights that were fine-tuned on "
        "other classes (default: the model's own)",
    )
    add(
        "--size",
        metavar="N",
        type=partial(_count, most=_LARGEST_SIZE),
        help="pictures are resized to N x N pixels (default: as torchvision's model "
        "wants it, else 224)",
    )
    if resize is not None:
        add(
            "--resize",
            choices=RESIZE,
            default=resize,
            help="squash: both sides to N, as in the papers' experiments; crop: the "
            "shorter side to N, and of this the central square, which distorts nothing "
            f"(default: {resize})",
        )
    for name, kind in (("mean", _number), ("std", _positive)):
        add(
            f"--{name}",
            metavar=("R", "G", "B"),
            nargs=3,
            type=kind,
            help=f"{name} of the colors in [0, 1], for normalizing (default: as "
            "torchvision's model wants it, else none)",
        )


def _add_explained(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--explain",
        choices=EXPLAIN,
        help="the output that is explained: probabilities are the softmax of the class "
        "scores (default, but for presets), logits the scores themselves, sigmoid that "
        "of each score by itself, for a network of several labels, and model what the "
        "model gives",
    )


def _add_layers(command: argparse.ArgumentParser, default: str, *aliases: str) -> None:
    command.add_argument(
        "--layers",
        *aliases,
        metavar="A,B",
        type=_names,
        help="dotted names, such as layer4 or features.12 (default: the last layer "
        f"that gives feature maps of {default})",
    )


def _add_quiet(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--quiet", action="store_true", help="print nothing but errors and warnings"
    )


def _add_reshape(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reshape",
        metavar="NAME",
        help="what makes feature maps (N, K, h, w) of the layer's output: vit_tokens "
        "or channels_last of captum_cams.reshape, with arguments where wanted, such as "
        '"vit_tokens(prefix_tokens=2)", or module:callable for a function of your own '
        "(default: one of the two where the output needs it)",
    )


def _add_methods(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--methods",
        metavar="M1,M2",
        nargs="+",
        action=_Words,
        type=_names,
        default=_DEFAULT_METHODS,
        help=f"all, or some of {', '.join(METHODS)}, {_OF_YOUR_OWN} (default: "
        f"{', '.join(_DEFAULT_METHODS)})",
    )


def _add_out(
    command: argparse.ArgumentParser, what: str, default: str | None = None
) -> None:
    command.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path(default or ""),
        help=f"folder of {what}, made if missing (default: "
        f"{default or 'the current one'})",
    )


class _Words(argparse.Action):
    """Methods with commas or spaces between them; pictures among them are put aside."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        words = [name for names in values for name in names]
        known = [*METHODS, "all"]
        methods = []
        for word in words:
            name, _ = parse_call(word)
            named = name in known or (":" in name and not os.path.lexists(word))
            if not named and hasattr(namespace, "more_images") and _is_path(word):
                namespace.more_images.append(word)
            else:
                methods.append(word)
        for word in methods:
            if word != "all" or self.default is None:  # which evaluate does not know
                try:
                    parse_method(word)
                except UserError as error:
                    parser.error(f"argument --methods: {error}")
        if not methods:
            parser.error(
                f"argument --methods: expected at least one method, got {words[0]!r}, "
                "which is a picture"
            )
        setattr(namespace, self.dest, methods)


def _is_path(word: str) -> bool:
    return word == "-" or os.path.lexists(word) or is_picture(Path(word))


def _names(text: str) -> list[str]:
    try:
        return split_names(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _save(text: str) -> list[str]:
    kinds = _names(text)
    for kind in kinds:
        if kind not in SAVE:
            raise argparse.ArgumentTypeError(
                f"must be of {', '.join(SAVE)}, got {kind!r}"
            )
    return list(dict.fromkeys(kinds))


def _count(text: str, least: int = 1, most: int = 10**7) -> int:
    try:
        number = int(text)
    except ValueError:  # also of thousands of digits
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(
            f"must be an integer of at least {least} and at most {most}, got {text!r}"
        )
    return number


def _number(text: str, positive: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # Beyond that numbers in single precision are infinite.
    if not abs(value) < 3e38 or (positive and value <= 0):
        above = " above 0" if positive else ""
        raise argparse.ArgumentTypeError(
            f"must be a finite number{above}, got {text!r}"
        )
    return value


_positive = partial(_number, positive=True)


def _name(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a name, got an empty one")
    return text


add_arguments: Mapping[str, Callable[[argparse.ArgumentParser], None]] = {
    "demo": _add_demo,
    "explain": _add_explain,
    "evaluate": _add_evaluate,
    "fine-tune": _add_fine_tune,
}
"""What gives each command its arguments."""
