"""Archives of `torch.export`, made harmless before torch reads them.

`torch.export.load` unpickles weights, constants and sample inputs where an archive asks for it, runs native
libraries that lie in it, evaluates expressions in sizes and guards, and takes any callable under `torch` for
an operator. So nothing is given to it but a copy, made here, of what a network needs: numbers as raw bytes,
and a graph of aten operators with fixed sizes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

_GRAPH = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_NUMBERS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_FILE = re.compile(r"(weight|tensor)_\d+")
_MARKS = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
_SAMPLES = "data/sample_inputs/model.pt"  # always pickled, and of no use here: written empty

_OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|_operator\.getitem")
_WORDS = re.compile(r"[\w.,;:<>@+\- \[\]]*")  # no quotes, parentheses, slashes or new lines
_FORBIDDEN = {"as_expr": "free sizes", "as_graph": "nested graphs", "as_operator": "operators as arguments"}
_FORBIDDEN |= dict.fromkeys(("as_custom_obj", "custom_obj"), "objects of Python classes")
_LEAF = '{"type": null, "context": null, "children_spec": []}'
_TUPLE = '{{"type": "builtins.tuple", "context": "null", "children_spec": [{}]}}'
_NO_NAMES = '{"type": "builtins.dict", "context": "[]", "children_spec": []}'
_ONE_INPUT = f"[1, {_TUPLE.format(_TUPLE.format(_LEAF) + ', ' + _NO_NAMES)}]"


class ArchiveError(ValueError):
    """An archive that is not of one network, or holds more than one should."""


def plain(archive: Path | bytes) -> bytes:
    """A copy of an archive with one tensor in and one out, without pickle, code or the paths of its maker.

    Raises:
        ArchiveError: if it is damaged, or holds what cannot be left out.
    """
    try:
        with zipfile.ZipFile(archive if isinstance(archive, Path) else io.BytesIO(archive)) as source:
            return _copy({_inside(info.filename): info for info in source.infolist()}, source)
    except (zipfile.BadZipFile, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArchiveError(f"is damaged, or no archive of torch.export ({error})") from None
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ArchiveError(
            f"is not laid out as torch.export does it ({type(error).__name__}: {error})"
        ) from None


def compiled(path: Path) -> dict[str, bytes]:
    """The small files (JSON) beside the library in a package of AOTInductor's, by name.

    Raises:
        ArchiveError: if it is damaged, or no such package.
    """
    try:
        with zipfile.ZipFile(path) as source:
            if (broken := source.testzip()) is not None:
                raise ArchiveError(f"is damaged ({broken})")
            inside = {_inside(name): name for name in source.namelist()}
            ours = {name: full for name, full in inside.items() if name.startswith("data/aotinductor/model/")}
            if not any(name.endswith((".so", ".dll", ".pyd")) for name in ours):
                raise ArchiveError("holds no compiled library; it is not a package of AOTInductor's")
            return {
                Path(name).name: source.read(full) for name, full in ours.items() if name.endswith(".json")
            }
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ArchiveError(f"is damaged, or no package of AOTInductor's ({error})") from None


def _inside(name: str) -> str:
    """A record's name without the archive's own, which comes first in all of them."""
    return name.partition("/")[2]


def _copy(records: dict[str, zipfile.ZipInfo], source: zipfile.ZipFile) -> bytes:
    if _GRAPH not in records:
        compiled_one = any(name.startswith("data/aotinductor/") for name in records)
        raise ArchiveError(
            "is compiled; it runs under torch-compiled" if compiled_one else "holds no network"
        )
    kept = {
        name: _read(source, records[name]) for name in records if name in _MARKS or _NUMBERS.fullmatch(name)
    }
    kept |= {name: json.dumps(_config(_json(source, records[name]))).encode() for name in _CONFIGS}
    kept |= {_GRAPH: json.dumps(_network(_json(source, records[_GRAPH]))).encode(), _SAMPLES: b""}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in sorted(kept):
            target.writestr(zipfile.ZipInfo(f"model/{name}"), kept[name])
    return buffer.getvalue()


def _read(source: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    if record.compress_type != zipfile.ZIP_STORED:  # torch does not compress: it could unpack to anything
        raise ArchiveError("is compressed")
    return source.read(record)


def _json(source: zipfile.ZipFile, record: zipfile.ZipInfo) -> Any:
    return json.loads(_read(source, record))


def _config(document: Any) -> Any:
    """Where weights or constants lie, if all of them are raw numbers."""
    for name, entry in document["config"].items():
        if entry["use_pickle"] or not _FILE.fullmatch(entry["path_name"]):
            raise ArchiveError(f"holds {name} as a pickle, which is not read")
    return _checked(document)


def _network(document: Any) -> Any:
    """The graph, with what torch would evaluate replaced by what must stand there."""
    module = document["graph_module"]
    for node in module["graph"]["nodes"]:
        if not _OPERATOR.fullmatch(node["target"]):
            raise ArchiveError(f"uses the operator {node['target']}; only those of aten are run")
        stack = node["metadata"].get("nn_module_stack")
        node["metadata"] = {"nn_module_stack": _without_classes(stack)} if stack else {}
    signature = module["signature"]
    inputs = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
    if len(inputs) != 1 or "as_tensor" not in inputs[0] or len(signature["output_specs"]) != 1:
        raise ArchiveError(
            f"takes {len(inputs)} inputs and gives {len(signature['output_specs'])} outputs, not one"
        )
    names = [inputs[0]["as_tensor"]["name"]]
    call = {"inputs": [], "outputs": [], "in_spec": "", "out_spec": "", "forward_arg_names": names}
    module["module_call_graph"] = [{"fqn": "", "signature": call}]
    module["metadata"] = {}
    document |= {"range_constraints": {}, "guards_code": []}
    checked = _checked(document)
    call |= {"in_spec": _ONE_INPUT, "out_spec": f"[1, {_LEAF}]"}
    return checked


def _without_classes(stack: str) -> str:
    """`key,path,class;…` with each class cut to its last name: some name the script it was made in."""
    return ";".join(",".join((*entry.split(",")[:2], "Module")) for entry in stack.split(";"))


def _checked(value: Any, key: str = "") -> Any:
    """A part of a document, if every word in it is no more than a word."""
    if key in _FORBIDDEN:
        raise ArchiveError(f"holds {_FORBIDDEN[key]}; export it for one image")
    if isinstance(value, str) and not (
        value.isidentifier() or not value if key == "name" else _WORDS.fullmatch(value)
    ):
        raise ArchiveError(f"holds {value[:40]!r} where a name should be")
    if isinstance(value, dict):
        for name, part in value.items():
            _checked(name)
            _checked(part, name)
    elif isinstance(value, list):
        for part in value:
            _checked(part, key)
    return value
