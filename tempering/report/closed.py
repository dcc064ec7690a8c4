"""A page that opens anywhere, loads nothing, and can be sent to somebody: how every page of this package is made.

All text is escaped by the template engine and characters without a picture are written out (words.py). A Content-Security-Policy lets the page
use the style sheet and the script that are put into it, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tempering.report.words import visible

STYLE = Path(__file__).parent / "style.css"
"""The style sheet that all pages begin with."""


def page(
    package: str, template: str, *, style: str = "", script: str = "", filters: Mapping[str, Callable[..., Any]] | None = None, **context: Any
) -> str:
    """The page as a string; the same inputs give the same bytes.

    Args:
        package: whose folder `templates` holds the template.
        style: further rules, after the shared sheet.
        script: this package's own; without one the page runs none.
        context: what the template is given, beside "style", "script" and "policy".
    """
    environment = Environment(loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters or {})
    style = STYLE.read_text(encoding="utf-8") + style
    runs = f"script-src '{_hash(script)}'; " if script else ""
    policy = f"default-src 'none'; style-src '{_hash(style)}'; {runs}base-uri 'none'; form-action 'none'"
    made = environment.get_template(template).render(context | {"style": Markup(style), "script": Markup(script), "policy": policy})
    # Over the whole page, so that no text can be forgotten: what it writes out is plain text, safe wherever it stands.
    return visible(made)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
