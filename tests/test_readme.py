"""The README's Python runs as it stands, where a demo's run is not needed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_first_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(snippets()[0], {})
    assert "48:PPP 96:PP 224:PPPPPP 448:PPPA @224×224 12289928" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\]\(([\w./-]+)\)|src=\"([\w./-]+)\"", README.read_text())))
)
def test_every_file_the_readme_names_is_there(path: tuple[str, str]) -> None:
    assert (README.parent / (path[0] or path[1])).exists()
