"""The command line: each command parses, calls one function, prints. `efficientformer --help` lists them.

A command's file is imported when the command is used. Exit code 0: done; 2: the input was wrong, one line
says what, where and what to do; 1: something could not be done as promised, or a fault of ours.
"""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

import efficientformer
from efficientformer.errors import InputError, PromiseError

COMMANDS = {
    "check": "What this machine can do: processor, runtimes, versions, and how noisy its clock is.",
    "models": "The networks known by name: parameters, MACs, activation memory, published accuracy.",
    "predict": "What is in these pictures: the most probable classes of each.",
    "train": "One network learns by a recipe: ours, a peer, or one that is trained already.",
    "recipes": "The named recipes: what for, from where, and what they reach.",
    "evaluate": "How accurate networks are on the same pictures, and what each changes against the first.",
    "measure": "Latency receipts side by side, interleaved; several targets make a portability matrix.",
    "profile": "Where a network's time goes, by operator and by block.",
    "study": "Why vision transformers are slow here: the paper's observations tried on this device.",
    "table": "The latency table of a search space: build it, show it, audit it.",
    "export": "A network as files for the runtimes people deploy on, each checked and timed.",
    "slim": "The main job: from images and a budget to a trained network that meets it, with the proof.",
    "replay": "A run's journal, every step applied anew.",
    "report": "A finished run's HTML page, written anew.",
    "demo": "The main job on scikit-learn's handwritten digits: minutes on two cores, no download.",
}

app = App(
    name="efficientformer",
    help="From a folder of images and a latency budget to a trained network that meets it here.",
    version=efficientformer.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)
for _name, _help in COMMANDS.items():
    _file = {"demo": "slim", "recipes": "train"}.get(_name, _name)
    app.command(f"{__name__}.{_file}:{_name}", help=_help)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_none")
    except (InputError, CycloptsError) as error:
        line = " ".join(str(error).split())
        print(f"efficientformer: {line}", file=sys.stderr)
        return 2
    except PromiseError as error:
        print(f"efficientformer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print("efficientformer: stopped; the same command goes on from here", file=sys.stderr)
        return _code(stop, sys.argv[1:] if arguments is None else arguments)
    return 0


def _code(stop: KeyboardInterrupt, arguments: list[str]) -> int:
    """Of a program that was stopped, as shells have it; 0 of a training that SIGTERM made save.

    What waits for the network of `slim` must not go on without it.
    """
    if not getattr(stop, "terminated", False):
        return 130
    return 0 if arguments[:1] == ["train"] else 143


def run() -> None:
    """The program."""
    sys.exit(main())
