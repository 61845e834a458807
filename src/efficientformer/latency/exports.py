"""Exports of networks that are only to be timed, kept in a folder for the next time.

Converting a network takes seconds to minutes a runtime, and gives the same file each time. So a checked
export is kept under a key of everything it was made from: the network, the target, the packages, our code.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from efficientformer.files import read_json, write_json
from efficientformer.latency import artefact
from efficientformer.latency.artefact import Artefact, export, random_images
from efficientformer.latency.machine import fingerprint
from efficientformer.latency.subjects import Subject
from efficientformer.latency.target import Target
from efficientformer.runtimes import RUNTIMES
from efficientformer.runtimes.base import installed

_OURS = Path(artefact.__file__).parents[1]
_ABANDONED_S = 24 * 3600
_CONVERTERS = ("onnx", "onnxscript", "nncf", "torchao", "ai-edge-quantizer")


def cache_folder() -> Path:
    """Where exports are kept: EFFICIENTFORMER_CACHE, or the user's cache folder."""
    named = os.environ.get("EFFICIENTFORMER_CACHE")
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(root) / "efficientformer"


def exported(subject: Subject, target: Target, cache: Path | None = None) -> tuple[Path, Artefact | None]:
    """The file that a subject runs as under a target, exported and checked if it is not there yet.

    Returns:
        the file, and its proof; None for a file that was given as it is.

    Raises:
        InputError: if the subject is a file of another runtime.
        ExportMismatchError: if the export does not compute what the network does.
    """
    if subject.build is None:
        return subject.file(target), None
    if (left := subject.deployed(target)) is not None:
        return left, None
    folder = (cache or cache_folder()) / "exports" / _key(subject, target)
    path, proof = folder / f"model{RUNTIMES[target.runtime].suffix}", folder / "artefact.json"
    if not proof.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _export(subject, target, folder)
    return path, Artefact(**read_json(proof))


def _export(subject: Subject, target: Target, folder: Path) -> None:
    """Export beside, then rename: a folder is whole or absent."""
    if subject.build is None:
        raise RuntimeError(f"{subject.name} is a file already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        images = random_images(subject.image)
        calibration = random_images(subject.image, 8) if target.precision == "int8" else None
        path = made / f"model{RUNTIMES[target.runtime].suffix}"
        proof = export(subject.build(), path, target, images, photographs=False, calibration=calibration)
        write_json(made / "artefact.json", proof.to_json())
        with contextlib.suppress(OSError):  # another process was faster
            made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what exports that were killed have left."""
    for left in folder.glob(".new-*"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)


def _key(subject: Subject, target: Target) -> str:
    runtime = RUNTIMES[target.runtime]
    packages = ("torch", "timm", *_CONVERTERS, *runtime.packages)
    made_from = {
        "identity": subject.identity,
        "image": subject.image,
        "runtime": target.runtime,
        "device": target.device,
        "precision": target.precision,
        "packages": {package: installed(package) for package in packages},
        "processor": fingerprint(target)["processor"],  # compiled files fit one only
        "code": _code(Path(inspect.getfile(type(runtime))).parent),
    }
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:20]
    return f"{subject.short}-{target.runtime}-{target.precision}-{digest}"


@functools.cache
def _code(runtime: Path) -> str:
    """A digest of the code that makes networks, and files for one runtime."""
    files = [*(_OURS / "model").rglob("*.py"), *runtime.rglob("*.py")]
    single = (
        *("architecture.py", "layers.py", "runtimes/onnx_files.py"),
        *("latency/untrained.py", "latency/subjects.py", "latency/artefact.py"),
    )
    digest = hashlib.sha256()
    for file in sorted([*files, *(_OURS / name for name in single)]):
        digest.update(file.read_bytes())
    return digest.hexdigest()
