"""Files of results: written batch by batch, cut back after a kill, read in order."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from captum_cams.evaluation.errors import UserError
from captum_cams.evaluation.records import FORMAT, Record, Run

RUN = "run.json"
PROBE = "probe output"
"""The fact that holds what the model gives for noise."""
_ROUNDING = 1e-3  # between outputs on other threads and machines


class _Extent(NamedTuple):
    """Where the lines of a batch are in a file, without the line that closes it."""

    path: Path
    start: int
    stop: int


class Records(Iterable[Record]):
    """
    All records of a folder, by index, whoever wrote them.

    May be passed over any number of times, and holds one batch in memory.

    Args:
        folder (Path): With ``run.json`` and ``results-*.jsonl``.

    Raises:
        UserError: If a file is not one of an evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.run = read_run(folder)
        self.extents: dict[int, _Extent] = {}
        for path in _files(folder):
            for batch, extent in _scan(path)[0].items():
                self.extents.setdefault(batch, extent)

    def __iter__(self) -> Iterator[Record]:
        for _, (path, start, stop) in sorted(self.extents.items()):
            with path.open("rb") as file:
                file.seek(start)
                lines = file.read(stop - start).splitlines()
            yield from map(json.loads, lines)


class Writer:
    """
    The file of one process, to which finished batches are added.

    Args:
        folder (Path): Of the results.
        rank (int): Of the process.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.file: IO[bytes] = (folder / f"results-{rank}.jsonl").open("ab")

    def add(self, batch: int, records: Iterable[Record]) -> None:
        """Writes a finished batch, which is kept if the process is killed later."""
        lines: list[Mapping[str, Any]] = [*records, {"batch": batch}]
        self.file.write(b"".join(_line(line) for line in lines))
        self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode("ascii") + b"\n"


def drop_unfinished(folder: Path) -> None:
    """Removes what an interrupted process wrote of an unfinished batch."""
    for path in _files(folder):
        _, end = _scan(path)
        if end < path.stat().st_size:
            os.truncate(path, end)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("results-*.jsonl"))


def _scan(path: Path) -> tuple[dict[int, _Extent], int]:
    """The finished batches, and where the last one ends."""
    batches: dict[int, _Extent] = {}
    offset = end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):  # the last, cut short by a kill
                if not (line.isascii() and line.startswith(b'{"'[: len(line)])):
                    raise _broken(path, number)
                break
            record = _parsed(line)
            if record is None:
                raise _broken(path, number)
            start, offset = offset, offset + len(line)
            if "batch" in record:
                batches.setdefault(record["batch"], _Extent(path, end, start))
                end = offset
    return batches, end


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a line, or None if an evaluation cannot have written it."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    if "batch" in record:
        return record if type(record["batch"]) is int else None
    wanted = {"index": int, "picture": str, "digest": str}
    fits = all(isinstance(record.get(key), kind) for key, kind in wanted.items())
    return record if fits and ("skipped" in record or "protocols" in record) else None


def _broken(path: Path, number: int) -> UserError:
    return UserError(
        f"line {number} of {path} was not written by an evaluation; put the file "
        "right, or write to another folder"
    )


def read_run(folder: Path) -> Run:
    """What ``run.json`` holds."""
    path = folder / RUN
    try:
        run = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        run = None
    if not isinstance(run, dict) or "settings" not in run:
        raise UserError(
            f"{path} was not written by an evaluation; write to another folder"
        )
    if run.get("format") != FORMAT or set(run) != set(Run.__annotations__):
        raise UserError(
            f"{path} has format {run.get('format', 1)} of results and this version of "
            f"captum_cams reads format {FORMAT}; write to another folder"
        )
    return cast(Run, run)


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Writes ``run.json`` as a whole, or not at all if the process is killed."""
    part = folder / f"{RUN}.part"
    part.write_text(json.dumps(run, indent=2, allow_nan=False) + "\n", "ascii")
    os.replace(part, folder / RUN)


def check_same_run(folder: Path, run: Run) -> bool:
    """
    Whether the folder holds a begun run, which must be the same one.

    Raises:
        UserError: If it is another one, with what differs.
    """
    if not (folder / RUN).exists():
        if files := _files(folder):
            raise UserError(
                f"{files[0]} is there without {RUN}, which says what it holds; "
                "write to another folder"
            )
        return False
    check_same_facts(folder, _fixed_facts(read_run(folder)), _fixed_facts(run))
    return True


def check_same_facts(
    folder: Path, before: Mapping[str, object], now: Mapping[str, object]
) -> None:
    """
    Whether a run goes on with what it began with.

    Raises:
        UserError: With the first fact that differs.
    """
    for name in {**now, **before}:
        old, new = before.get(name), now.get(name)
        if name == PROBE and old is not None:
            if not _are_close(old, new):
                raise UserError(
                    f"{folder} holds a run of a model that computes something else: "
                    f"its first outputs for noise were {_shown(old)} and now are "
                    f"{_shown(new)}; give the model as it was, or write to another "
                    "folder"
                )
        elif old != new:
            name, old, new = _first_difference(name, old, new)
            raise UserError(
                f"{folder} holds a run with {name} {_shown(old)}, which now is "
                f"{_shown(new)}; give what it was, or write to another folder"
            )


def _first_difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Of the pictures, which may be many, the first that differs, with its place."""
    if name == "pictures":
        pairs = enumerate(itertools.zip_longest(old, new), start=1)
        at, (was, now) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
        return f"{name} (number {at})", was, now
    return name, old, new


def check_same_pictures(
    folder: Path, records: Iterable[Record], digest: Callable[[int], str]
) -> None:
    """
    Whether the pictures that a run has results of are still the same.

    Args:
        folder (Path): Of the results.
        records (iterable of Record): The results.
        digest (Callable): Of the picture of an index and its annotation, as they are.

    Raises:
        UserError: With the first picture that differs.
    """
    last = -1
    for record in records:
        if record["index"] == last:
            continue
        last = record["index"]
        if digest(last) != record["digest"]:
            raise UserError(
                f"{folder} holds results of {record['picture']}, whose file or "
                "annotation has changed since; put it back, or write to another folder"
            )


def _are_close(old: Any, new: Any) -> bool:
    """Whether two lists of numbers, or of None, differ by no more than rounding."""
    scale = max((abs(value) for value in old if value is not None), default=0.0)
    return len(old) == len(new) and all(
        one == other
        or (
            None not in (one, other)
            and math.isclose(one, other, abs_tol=_ROUNDING * scale)
        )
        for one, other in zip(old, new, strict=True)
    )


def _fixed_facts(run: Run) -> dict[str, object]:
    """All that must be the same when a run goes on, by name."""
    versions = {f"version of {name}": of for name, of in run["versions"].items()}
    others = {
        "methods by protocol" if key == "methods" else key: value
        for key, value in run.items()
        if key not in ("settings", "versions", "notes", "left_out", "started")
    }
    # What JSON makes of tuples counts as the same.
    facts: dict[str, object] = json.loads(
        json.dumps({**run["settings"], **versions, **others})
    )
    return facts


def _shown(value: object) -> str:
    return "none" if value is None else json.dumps(value)
