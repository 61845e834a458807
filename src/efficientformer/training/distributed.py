"""The processes of one training: one, or as many as torchrun started, on one machine or many.

    torchrun --nproc-per-node 2 -m efficientformer.cli train …

One process needs none of torch.distributed; nothing here asks for it then.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from efficientformer.errors import InputError


@dataclass(frozen=True)
class World:
    """Where this process stands among those that train together.

    Attributes:
        rank: its number; 0 alone writes files and talks.
        size: how many there are.
        device: what it computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and talks."""
        return self.rank == 0

    def any(self, yes: bool) -> bool:
        """Whether any process says yes; all must ask."""
        return bool(self.sum(torch.tensor(int(yes)))) if self.size > 1 else yes

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes of a tensor that lies on the CPU; all must ask."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor, group=_talk())
        return tensor

    def gather(self, text: tuple[str, ...]) -> tuple[str, ...]:
        """The lines of all processes, in the order of their ranks; all must ask."""
        if self.size == 1:
            return text
        lines: list[tuple[str, ...]] = [()] * self.size
        dist.all_gather_object(
            lines, text, group=_talk()
        )  # among our own processes; nothing is read from outside
        return tuple(line for some in lines for line in some)

    def share(self, text: str) -> str:
        """The first process's text; all must ask."""
        if self.size == 1:
            return text
        texts = [text]
        dist.broadcast_object_list(texts, 0, group=_talk())  # among our own processes
        return texts[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier(group=_talk())

    @contextlib.contextmanager
    def main_first(self) -> Generator[None, None, None]:
        """The first process does what is in here; then the others do, with what it has written."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the first one's batch-norm statistics: each has those of its own images."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wrapped(self, model: nn.Module, *, partly_used: bool = False) -> nn.Module:
        """The model with gradients averaged over all processes.

        Args:
            model: the same in all of them.
            partly_used: whether a step may leave out some of its weights, in all processes the same.
        """
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True, find_unused_parameters=partly_used
        )


def is_first() -> bool:
    """Whether this process is the one that talks, by what torchrun says in the environment."""
    return int(os.environ.get("RANK", 0)) == 0


@contextlib.contextmanager
def joined(device: str = "auto") -> Generator[World, None, None]:
    """The world that torchrun describes in the environment, for as long as the context holds.

    Args:
        device: `cpu`, `cuda`, or `auto` for CUDA where there is one.

    Raises:
        InputError: if the device is not there, or fewer than there are processes on this machine.
    """
    local, here = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    chosen = _device(device, local, here)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(device=chosen)
        return
    backend = "cuda:nccl,cpu:gloo" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, **_meeting_place(size))
    try:
        yield World(dist.get_rank(), size, chosen)
    finally:
        _TALK.clear()
        dist.destroy_process_group()


def _meeting_place(size: int) -> dict[str, Any]:
    """Where processes find each other: torchrun's own store, a part of it for each time it starts them.

    torchrun keeps the store when it starts lost processes again, and with it the addresses of the dead; torch
    itself would look those up.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return {}  # by the environment, as any launcher sets it
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    own = dist.PrefixStore(f"attempt-{attempt}", store)
    return {"store": own, "rank": int(os.environ["RANK"]), "world_size": size}


def _device(name: str, local: int, here: int) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise InputError(f"--device {name}: give cpu, cuda or auto")
    if not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no CUDA device here; give --device cpu")
    if here > torch.cuda.device_count():
        raise InputError(f"{here} processes for {torch.cuda.device_count()} CUDA devices: one each is needed")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


_TALK: list[dist.ProcessGroup] = []


def _talk() -> dist.ProcessGroup:
    """A group on the processors, for the little that is said between steps: no device has to wait for it."""
    if not _TALK:
        # Others wait while the first decodes all images; a lost process shows where gradients are averaged.
        _TALK.append(dist.new_group(backend="gloo", timeout=timedelta(hours=12)))
    return _TALK[0]
