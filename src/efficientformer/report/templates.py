"""What every page shares: the templates beside this file, and drawings for wide and narrow windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from efficientformer.report import wording

WIDE, NARROW = 920, 372  # pixels; a drawing is made twice, so that its text stays readable on a phone


@cache
def environment() -> Environment:
    """The templates, escaping everything, failing on a name they do not know."""
    made = Environment(
        loader=PackageLoader("efficientformer.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= wording.FILTERS
    return made


def twice(build: Callable[[float], Markup]) -> Markup:
    """A drawing for wide windows and one for narrow; the stylesheet shows one of them."""
    frame = Markup('<div class="wide">{}</div><div class="narrow">{}</div>')
    return frame.format(build(WIDE), build(NARROW))
