"""The processes of a run, and what makes each of them compute the same numbers."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from captum_cams.evaluation.errors import UserError, brief_error

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


class Team(NamedTuple):
    """The processes that share a run, seen from one of them."""

    rank: int
    size: int
    device: torch.device

    def wait(self) -> None:
        """Waits until all other processes are here."""
        if self.size > 1:
            dist.barrier()


def usable_device(device: str | torch.device | None) -> torch.device:
    """
    A device that holds numbers; None stands for the process' own GPU, else the CPU.

    Raises:
        UserError: If it does not.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device is None:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", local)
        torch.zeros(1, device=device).item()  # fails where no numbers are kept, too
    except (AssertionError, RuntimeError, TypeError) as error:
        raise UserError(f"cannot use device {device}: {brief_error(error)}") from error
    return device


@contextlib.contextmanager
def processes(device: str | torch.device | None) -> Iterator[Team]:
    """The team of processes that torchrun started, or of this one alone."""
    device = usable_device(device)
    own = (
        torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    )
    with own:
        if dist.is_available() and dist.is_initialized():
            yield Team(dist.get_rank(), dist.get_world_size(), device)
        elif int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # The first process waits at the end for the slowest, however long it takes.
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=30)
            )
            try:
                yield Team(dist.get_rank(), dist.get_world_size(), device)
            finally:
                dist.destroy_process_group()
        else:
            yield Team(0, 1, device)


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """
    Adds up in one order.

    So neither the number of threads nor the algorithms that cuDNN chooses change a bit.
    """
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    found = cudnn.deterministic, cudnn.benchmark
    if device.type == "cpu":
        torch.set_num_threads(1)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = found


def keep_freed_memory() -> None:
    """
    Tells glibc to keep what is freed for what comes next, for the process' whole life.

    Else each layer's memory is given back to Linux and asked for again, which takes a
    quarter of the time of a small network. Does nothing where there is no glibc.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's generators of the CPU and of a GPU, and puts them back."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
