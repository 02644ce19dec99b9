"""
The command line: `captum-cams`, or `python -m captum_cams`.

What a user can put right ends in one sentence on stderr and exit code 2.
"""

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TextIO

from captum_cams import __version__
from captum_cams._printable import printable
from captum_cams.evaluation.errors import UserError, is_out_of_memory

_MOST_SKIPPED = 10  # pictures whose reasons are printed
_COMMANDS = {
    "demo": "explain example pictures; nothing is downloaded",
    "explain": "explain pictures of your own",
    "evaluate": "the papers' tables and figures over a data set",
    "fine-tune": "Group-CAM's fine-tuning on blended pictures, and a control run",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Args:
        arguments (sequence of str, optional): Its arguments. Default: None, for those
            of the process

    Returns:
        *int*, the exit code: 0, 2 after an error that the user can put right, 130
        after Ctrl-C, or 141 where nobody reads the output any more, as of ``| head``.
    """
    _open_streams()
    options = None
    try:
        try:
            options = _parse(sys.argv[1:] if arguments is None else arguments)
            with contextlib.ExitStack() as stack:
                if options.quiet:
                    nowhere = stack.enter_context(open(os.devnull, "w"))
                    stack.enter_context(contextlib.redirect_stdout(nowhere))
                _RUN[options.command](options)
        finally:
            sys.stdout.flush()  # while it can be told that this fails
        return 0
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        _tell(f"stopped{_again(options)}", start="\n")
        return 130
    except Exception as error:
        message = _message(error, options.command if options else None)
        if message is None:
            raise
        # What an error of the command's own says is complete.
        again = "" if isinstance(error, UserError) else _again(options)
        _tell(f"{message}{again}")
        return 2
    finally:
        _drop_broken(sys.stdout)
        _drop_broken(sys.stderr)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="captum-cams",
        description="Class activation maps of pictures, as figures and tables.",
    )
    parser.add_argument(
        "--version", action="version", version=f"captum-cams {__version__}"
    )
    commands = parser.add_subparsers(
        prog=parser.prog, metavar="COMMAND", dest="command", required=True
    )
    for name, text in _COMMANDS.items():
        command = commands.add_parser(
            name, help=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in arguments:
            # What a command takes is known where PyTorch is, which takes seconds.
            from captum_cams._cli_parser import add_arguments

            add_arguments[name](command)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        # By itself the parser would send to the help of all commands.
        commands.choices[options.command].error(
            f"unrecognized arguments: {' '.join(unknown)}"
        )
    return options


def _open_streams() -> None:
    """Streams that take any text, also where a shell has closed them."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr escapes what it cannot write
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_broken(stream: TextIO) -> None:
    """Lets go of what a stream cannot write, or the interpreter fails as it ends."""
    try:
        stream.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def _message(error: Exception, command: str | None) -> str | None:
    """What a user can put right, in one sentence; None for a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        file = "" if error.filename is None else f" {error.filename}"
        return f"cannot read or write{file}: {error.strerror or error}"
    if is_out_of_memory(error):
        of_command = {"demo": "", "explain": "; a smaller --size takes less"}
        remedy = "; a smaller --size or --batch-size takes less"
        return f"not enough memory{of_command.get(command or '', remedy)}"
    return None


def _again(options: argparse.Namespace | None) -> str:
    """What a user can do about a run that was stopped."""
    ran = options is not None and options.command in ("evaluate", "fine-tune")
    return "; the same command goes on from here" if ran else ""


def _tell(message: str, start: str = "") -> None:
    with contextlib.suppress(OSError):  # nobody may listen
        print(f"{start}captum-cams: {printable(message)}", file=sys.stderr, flush=True)


def _say(message: str) -> None:
    print(printable(message), flush=True)  # what comes next may take a while


def _demo(options: argparse.Namespace) -> None:
    from captum_cams._explain import demo

    demo(options)


def _explain(options: argparse.Namespace) -> None:
    from captum_cams._explain import explain

    explain(options)


def _evaluate(options: argparse.Namespace) -> None:
    from captum_cams.evaluation import evaluate
    from captum_cams.evaluation.processes import keep_freed_memory

    first = int(os.environ.get("RANK", 0)) == 0
    shown = first and not options.quiet
    if options.model is None and options.preset is None:  # a small network
        keep_freed_memory()
    records = evaluate(**_arguments(options), show_progress=shown)
    if not first:
        return
    skipped = 0
    for record in records:
        if "skipped" in record:
            skipped += 1
            if skipped <= _MOST_SKIPPED:
                _say(f"{record['picture']} was skipped: {record['skipped']}")
    if skipped > _MOST_SKIPPED:
        _say(f"and {skipped - _MOST_SKIPPED} more")
    for note in records.run["notes"]:
        _say(note)
    reshaped: Any = records.run["settings"]["reshape"] or {}
    for layer, transform in reshaped.items():
        _say(f"layer {layer}: feature maps by {transform}")
    folder = options.out.resolve()
    _say(f"tables: {folder / 'summary.md'}")
    _say(f"report: {folder / 'report.html'}")


def _fine_tune(options: argparse.Namespace) -> None:
    from captum_cams.evaluation import fine_tune

    fine_tune(**_arguments(options), show_progress=not options.quiet)
    folder = options.out.resolve()
    _say(f"tables: {folder / 'summary.md'}")
    _say(f"figure: {folder / 'maps.png'}")


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Those of the function that a command stands for."""
    own = ("command", "quiet")
    return {key: value for key, value in vars(options).items() if key not in own}


_RUN: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "explain": _explain,
    "evaluate": _evaluate,
    "fine-tune": _fine_tune,
}
