"""One process or several (`accelerate launch`): which of them writes, and who waits for whom."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from accelerate import PartialState

from tmcir_lite.io.files import InputError

_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""What a launcher tells each of its processes. Only some of them are left over in a shell, and of no group."""
_MPI = ("OMPI_COMM_WORLD_", "PMI_", "MV2_COMM_WORLD_", "MPI_LOCAL")
"""How names of the same begin that MPI and some clusters set, and that Accelerate reads as well."""


def join(device: torch.device) -> PartialState:
    """This process's place among those of the run; alone, it is the main one."""
    if not _launched():
        for name in [name for name in os.environ if name in _GROUP or name.startswith(_MPI)]:
            del os.environ[name]  # else Accelerate waits for the others
    return PartialState(cpu=device.type == "cpu")


def own_device(kind: str) -> torch.device:
    """The device of one kind that is this process's own: with several GPUs, that of its local rank."""
    if kind == "cuda" and _launched():
        return torch.device(kind, int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return torch.device(kind)


def _launched() -> bool:
    return all(os.environ.get(name, "").isdigit() for name in _GROUP) and all(map(os.environ.get, _MEETING))


def has_bf16(device: torch.device) -> bool:
    """Whether this is a GPU that computes with bf16; older ones only emulate it, slower than single precision."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def main_first(device: torch.device) -> AbstractContextManager:
    """The main process runs the block before the others do, who then find on disk what it made."""
    return join(device).main_process_first()


@contextmanager
def main_only(device: torch.device) -> Iterator[bool]:
    """Gives True to the main process, which writes; the others get False and wait at the end of the block."""
    state = join(device)
    yield state.is_main_process
    state.wait_for_everyone()


def pick_device(name: str) -> torch.device:
    """The device that `device:` names; "auto" takes cuda, else mps, else cpu.

    Raises:
        InputError: the name is unknown, or this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in available.items() if there)
    if name not in available:
        raise InputError(f"device: {name!r}: expected auto, cpu, cuda or mps")
    if not available[name]:
        raise InputError(f"device: {name}: this machine has none that PyTorch can use; write auto or cpu")
    return own_device(name)
