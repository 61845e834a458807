"""The page of a profile: where a network's time goes, in one file that loads nothing.

efficientformer profile efficientformer_l1 --html profile.html
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import efficientformer
from efficientformer.files import write_atomically
from efficientformer.latency.profile import Profile
from efficientformer.latency.profile.result import NOWHERE
from efficientformer.report import profile_chart, wording
from efficientformer.report.receipt import VERDICTS

_WIDE, _NARROW = 920, 372


def write_profile(profile: Profile, path: Path) -> Path:
    """Write a profile's page.

    Args:
        profile: what was found.
        path: the file; its folder is made if it is missing.

    Returns:
        the page's path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render_profile(profile))
    return path


def render_profile(profile: Profile) -> str:
    """The page of a profile, as HTML."""
    return (
        _environment()
        .get_template("profile.html.j2")
        .render(
            profile=profile,
            whole=profile.whole,
            nowhere=NOWHERE,
            sorts=profile_chart.used_sorts(profile),
            slug=profile_chart.slug,
            strip=_twice(profile_chart.strip, profile),
            bars=_twice(profile_chart.block_bars, profile),
            operator_text=profile_chart.operator_text,
            verdicts=VERDICTS,
            version=efficientformer.__version__,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("efficientformer.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= wording.FILTERS
    return environment


def _twice(build: profile_chart.Drawing, profile: Profile) -> Markup:
    """A drawing for wide windows and one for narrow; the stylesheet shows one of them."""
    frame = Markup('<div class="wide">{}</div><div class="narrow">{}</div>')
    return frame.format(build(profile, _WIDE), build(profile, _NARROW))
