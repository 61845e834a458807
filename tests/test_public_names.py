"""The public names: each is imported when it is first used, and is what its module has."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import efficientformer


@pytest.mark.parametrize("name", efficientformer.__all__)
def test_a_public_name_is_its_modules(name: str) -> None:
    module = importlib.import_module(f"efficientformer.{efficientformer._MODULES[name]}")
    assert getattr(efficientformer, name) is getattr(module, name)
    assert name in dir(efficientformer)


def test_a_type_checker_sees_the_names_that_a_program_gets() -> None:
    tree = ast.parse(Path(efficientformer.__file__).read_text())
    (checked,) = [one for one in tree.body if isinstance(one, ast.If)]
    imports = [one for one in checked.body if isinstance(one, ast.ImportFrom)]
    seen = {alias.name: str(one.module) for one in imports for alias in one.names}
    assert seen == {name: f"efficientformer.{module}" for name, module in efficientformer._MODULES.items()}
    assert set(seen) == set(efficientformer.__all__)


def test_another_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'efficientformer' has no attribute 'create_mode'"):
        _ = efficientformer.create_mode  # ty: ignore
    with pytest.raises(ImportError):
        from efficientformer import create_mode  # noqa: F401  # ty: ignore
