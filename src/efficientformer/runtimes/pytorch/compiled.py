"""PyTorch compiled ahead of time: what `torch.compile` makes of a network, as a library in a file."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientformer.errors import InputError
from efficientformer.runtimes.base import (
    MissingRuntimeError,
    OneByOne,
    Operator,
    Settings,
    Trace,
    Traced,
    UnsupportedOperatorError,
    last_line,
)
from efficientformer.runtimes.pytorch import archive
from efficientformer.runtimes.pytorch.eager import WARM_UP, check_device, device_trouble

if TYPE_CHECKING:
    import torch

ORIGINS = "origins.json"
"""Ours, in a package: where each kernel came from, in the order of their calls."""
PROVENANCE = "kernel_information.json"
"""Inductor's, from which that is taken."""


class Compiled(OneByOne):
    """Packages of AOTInductor, the backend of `torch.compile`: native code for one device, weights inside.

    **To load a file is to run the code in it**: only files that the user names are loaded. It is made for the
    processor it was made on, and by a C++ compiler; to run it needs none. A module is compiled for the device
    that its weights are on. CUDA has not been tried by us.
    """

    name = "torch-compiled"
    packages = ("torch",)
    extra = ""
    suffix = ".aoti.pt2"
    devices = ("cpu",)
    precisions = ("fp32", "bf16")  # torch's own operators on the CPU have no fp16 worth having

    def trouble(self, device: str = "cpu") -> str | None:
        """None if files can be run here on a device; otherwise why not. Export takes a C++ compiler too."""
        return device_trouble(self, device)

    def files(self, path: Path) -> tuple[Path, ...]:
        """The one file."""
        return (path,)

    def export(
        self, traced: Traced, path: Path, precision: str = "fp32", calibration: np.ndarray | None = None
    ) -> None:
        """Compile a module for this CPU. It takes a minute, and a C++ compiler.

        Raises:
            MissingRuntimeError: if there is no C++ compiler.
            UnsupportedOperatorError: if torch.export cannot follow the module, or inductor compile it.
        """
        import torch

        from efficientformer.runtimes.pytorch import programs

        if trouble := compiler_trouble():
            raise MissingRuntimeError(f"{self.name}: {trouble}")
        program = programs.program(traced, precision, torch.contiguous_format, "cpu")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compiling-") as folder:
            facts = {"shape": json.dumps(traced.shape), "precision": precision}
            _compile(program, Path(folder), facts).replace(path)

    def load(self, path: Path, settings: Settings) -> CompiledSession:
        """The library in a package, ready to run; the number of threads is this whole process's.

        Raises:
            InputError: if it is no such file, or made for another device, machine or precision.
        """
        from efficientformer.runtimes.pytorch import programs

        check_device(self, path, settings)
        facts = _facts(path, settings)
        programs.prepare(settings)  # before the library is loaded: it asks for the number of threads
        import torch

        try:
            loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
        except RuntimeError as error:
            raise InputError(f"{path}: torch cannot load it: {last_line(error)}") from None
        return CompiledSession(loader, tuple(json.loads(facts["shape"])), settings.device)

    def operators(self, path: Path, settings: Settings, array: np.ndarray, runs: int) -> Trace:
        """The time of each kernel, by torch.profiler."""
        from efficientformer.runtimes.pytorch import programs

        session = self.load(path, settings)
        images = programs.to_tensor(array).to(settings.device)
        events = programs.watched(lambda: session.call(images), runs + WARM_UP, images.device)
        whole, rows = programs.by_run(events, images.device)
        origins: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for origin in json.loads(archive.compiled(path).get(ORIGINS, b"[]")):
            origins[origin["kernel"]].append(origin)
        operators = []
        for calls in zip(*rows[WARM_UP:], strict=True):
            name = re.sub(r"^graph_\d+_", "", calls[0][0])
            origin = origins[name].pop(0) if origins[name] else {}
            operators.append(_operator(name, statistics.median(ms for _, ms in calls), origin))
        return Trace(tuple(operators), tuple(whole[WARM_UP:]), "torch.profiler, kernels of AOTInductor")


class CompiledSession:
    """A loaded library."""

    def __init__(self, loader: Any, shape: tuple[int, ...], device: str) -> None:
        self._loader = loader
        self._shape = shape
        self._device = device

    @property
    def shape(self) -> tuple[int, ...]:
        """The input's shape, batch first."""
        return self._shape

    @property
    def takes_float32(self) -> bool:
        """Yes: whatever it computes in, it is compiled to take float32."""
        return True

    def call(self, images: torch.Tensor) -> torch.Tensor:
        """The output for a tensor on the device."""
        return self._loader.run([images])[0]

    def run(self, array: np.ndarray) -> np.ndarray:
        """The output for one input; copying it to the host waits for the device."""
        import torch

        from efficientformer.runtimes.pytorch import programs

        with torch.inference_mode():
            return self.call(programs.to_tensor(array).to(self._device)).float().cpu().numpy()


def compiler_trouble() -> str | None:
    """None if there is a C++ compiler for inductor; otherwise how to get one."""
    default = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", default)
    if shutil.which(compiler):
        return None
    return f"there is no C++ compiler ({compiler}) to compile with; install one, or name one in CXX"


def _compile(program: torch.export.ExportedProgram, folder: Path, facts: dict[str, str]) -> Path:
    """A package in a folder; what inductor writes on the way is there too."""
    import torch
    import torch._inductor

    from efficientformer.runtimes.pytorch.origins import origins_of

    module = program.module(check_guards=False)
    examples = program.example_inputs[0] if program.example_inputs else ()
    options = {
        "freezing": True,  # weights are constants: folded, and laid out for their kernels
        "max_autotune": False,
        "compile_threads": 1,  # leaves no pool of processes behind
        "cpp.dynamic_threads": True,  # as many threads as the process that runs it is told
        "cpp.enable_kernel_profile": True,
        "trace.provenance_tracking_level": 1,
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.package": True,
        "aot_inductor.output_path": str(folder),
        "aot_inductor.metadata": facts,
    }
    with warnings.catch_warnings(), torch.no_grad():
        # inductor's own, when it is imported
        warnings.filterwarnings("ignore", ".*torch.jit.script_method.*", DeprecationWarning)
        try:
            made = torch._inductor.aot_compile(module, examples, options=options)
        except Exception as error:  # inductor raises many kinds, with the compiler's whole output
            what = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            raise UnsupportedOperatorError(f"torch-compiled: inductor cannot compile it: {what}") from None
        from torch._inductor.package import package_aoti
    if not isinstance(made, list):
        raise RuntimeError("inductor gave no list of files")
    files = [str(file) for file in made if not str(file).endswith(".cpp")]  # they name this machine's folders
    known = next((file for file in files if file.endswith(PROVENANCE)), None)
    origins = folder / ORIGINS
    origins.write_text(
        json.dumps(origins_of(program.graph, json.loads(Path(known).read_text())) if known else [])
    )
    package = folder / "package.pt2"
    package_aoti(str(package), [*files, str(origins)])
    return package


def _operator(name: str, ms: float, origin: dict[str, Any]) -> Operator:
    """A kernel with its time."""
    kind = re.sub(r"^aoti_torch_[a-z]+_+|(?<=_fused)_.*", "", name)
    sources, operators = origin.get("sources", []), origin.get("operators", [])
    detail = " + ".join(operators) + (f" of {', '.join(sources)}" if len(sources) > 1 else "")
    layout = origin.get("layout") or re.fullmatch(r"\w+_fused(_(_to_copy|clone|permute|view))+_\d+", name)
    return Operator(name, kind, ms, next(iter(sources), ""), detail, "convert" if layout else "compute")


def _facts(path: Path, settings: Settings) -> dict[str, str]:
    """What a package says of itself, if it can be run here so.

    Raises:
        InputError: if it cannot.
    """
    import torch

    try:
        facts = _metadata(archive.compiled(path))
    except archive.ArchiveError as error:
        raise InputError(f"{path}: {error}") from None
    simd = facts.get("AOTI_CPU_ISA", "").partition(" ")[0]
    simds = {"AVX512": ("AVX512",), "AVX2": ("AVX2", "AVX512")}.get(simd)
    here = torch.backends.cpu.get_cpu_capability()
    for what, made, wanted in (
        ("device", facts.get("AOTI_DEVICE_KEY"), settings.device),
        ("precision", facts["precision"], settings.precision),
        ("system", facts.get("AOTI_PLATFORM"), sys.platform),
        ("machine", facts.get("AOTI_MACHINE"), platform.machine()),
        ("processor", simd if simds and here not in simds else here, here),
    ):
        if made != wanted:
            raise InputError(f"{path}: was compiled for the {what} {made}, not {wanted}; export it again")
    return facts


def _metadata(files: dict[str, bytes]) -> dict[str, str]:
    metadata = next((text for name, text in files.items() if name.endswith("wrapper_metadata.json")), b"{}")
    facts = json.loads(metadata)
    if not {"shape", "precision"} <= set(facts):
        raise archive.ArchiveError("does not say what it takes; export it with efficientformer")
    return facts
