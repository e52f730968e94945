"""The pages of this folder: jinja templates, their style, and how they word numbers. Everything is escaped."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from embervlm.evaluate.paired import points, span

RIGHT, WRONG = 0.6, 0.3
"""An answer that scores so much counts as right, one below the other as wrong, in between as half right."""


def render_page(template: str, **values: Any) -> str:
    """A page as a string, with `css` at hand; what models and people wrote is escaped."""
    environment = Environment(
        loader=PackageLoader("embervlm", "evaluate/pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent, "number": number, "duration": duration, "verdict": verdict, "points": points, "span": span,
    }  # fmt: skip
    return environment.get_template(template).render(css=Markup(read_asset("report.css")), **values)


def read_asset(name: str) -> str:
    return resources.files("embervlm.evaluate.pages").joinpath(name).read_text(encoding="utf-8")


def script_source(script: str) -> str:
    """What a Content-Security-Policy calls this script, so that the page runs it and no other."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """3725 -> "1 h 02 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def verdict(score: float) -> str:
    return "right" if score >= RIGHT else "wrong" if score < WRONG else "half"
