"""What this book adds to Sphinx: provenance, sliders, an address, a stricter build."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from mpkit.core.records import declared

LOG = logging.getLogger(__name__)
CARD = {"image": "book/_static/card.png", "line_color": "#1760d0"}
BINDER, COLAB = "https://mybinder.org", "https://colab.research.google.com"


def public_address(repository: str) -> dict[str, Any]:
    """Options of the theme for a repository such as https://github.com/OWNER/NAME.

    Raises:
        ValueError: if the address has another form.
    """
    host, _, path = repository.removesuffix("/").removesuffix(".git").rpartition("github.com/")
    if host != "https://" or path.count("/") != 1:
        raise ValueError(
            f"mp_repository: {repository!r} in _config.yml; write https://github.com/OWNER/NAME, "
            "or an empty string while there is no public address"
        )
    return {
        "repository_url": f"{host}github.com/{path}",
        "repository_branch": "main",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": BINDER,
            "colab_url": COLAB,
        },
    }


def turn_on_public_address(app: Sphinx, config: Any) -> None:
    """Show the buttons of the repository, and address pages and social cards absolutely."""
    if not config.mp_repository:
        return
    options = public_address(config.mp_repository)
    config.html_theme_options = {**config.html_theme_options, **options}
    owner, name = options["repository_url"].split("/")[-2:]
    config.html_baseurl = config.ogp_site_url = f"https://{owner.lower()}.github.io/{name}/"
    config.ogp_social_cards = CARD


def require_alternatives(app: Sphinx, doctree: nodes.document) -> None:
    """Warn of every image without a text alternative; the strict build fails on a warning."""
    for image in doctree.findall(nodes.image):
        if not str(image.get("alt", "")).strip():
            LOG.warning(
                "image without a text alternative: give the cell's metadata "
                '{"mystnb": {"image": {"alt": "..."}}}, or the directive an :alt: option',
                location=image if image.line else app.env.docname,
                type="mpbook",
            )


def mark_charts(app: Sphinx, doctree: nodes.document) -> None:
    """Tell the style sheet which pictures are charts of mpkit; their files say so."""
    for image in doctree.findall(nodes.image):
        file = Path(app.srcdir, image["uri"])
        if file.suffix == ".png" and b"Kind\0chart" in file.read_bytes()[:1000]:
            image["classes"].append("mp-chart")


def provenance(source: Path) -> dict[str, Any]:
    """Read how a page was made, and its results, from its notebook; empty where it does not say."""
    if source.suffix != ".ipynb":
        return {}
    notebook = json.loads(source.read_text(encoding="utf-8"))
    made: dict[str, Any] = notebook["metadata"].get("mpkit", {})
    return made and {**made, "results": declared(notebook), "checked": witnessed(source)}


def witnessed(source: Path) -> list[str]:
    """The records of a page's own study that come with witnesses and weights, as paths."""
    from mpkit.studies import zoo

    folder, end = source.parent / "results" / source.stem, ".witnesses.safetensors"
    names = sorted(file.name.removesuffix(end) for file in folder.glob(f"*{end}"))
    return [
        f"book/results/{source.stem}/{name}.json"
        for name in names
        if (zoo.SHIPPED / f"{name.rpartition('-seed')[0]}.safetensors").is_file()
    ]


def _value(value: Any) -> str:
    return f"<code>{escape(value if isinstance(value, str) else json.dumps(value))}</code>"


def footer(made: dict[str, Any]) -> str:
    """Say in HTML how a page was made, and what a sweep's table would show of it."""
    rows = [
        ("Profile", _value(made.get("profile"))),
        ("Parameters", _pairs(made.get("parameters", {}))),
        ("Seed", _value(made.get("seed"))),
        ("Device", _value(made.get("device"))),
        ("Processor", _value(made.get("processor", "not noted"))),
        ("Arithmetic", _pairs(made.get("settings", {}))),
        ("Versions", _pairs(made.get("versions", {}))),
        ("Python asked for", _pairs(made.get("asked", {}))),
        ("Code", f"{_value(made.get('commit'))} of {escape(str(made.get('commit_date')))}"),
        ("Duration", f"{made.get('duration_s')} s"),
    ]
    if made.get("results"):
        rows.append(("Results", _pairs(made["results"])))
    if records := made.get("checked"):
        commands = "".join(f"<li>{_value(f'mpkit verify {path}')}</li>" for path in records)
        rows.append(("Check without an attack", f"<ul>{commands}</ul>"))
    listed = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return (
        '<details class="mp-provenance"><summary>How this page was made</summary>'
        f"<dl>{listed}</dl></details>"
    )


def _pairs(values: dict[str, Any]) -> str:
    pairs = (f"<li>{escape(name)} {_value(value)}</li>" for name, value in values.items())
    return f"<ul>{''.join(pairs)}</ul>"


def finish_page(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the footer of provenance, and the script of sliders to the pages that have one."""
    if doctree is None:
        return
    made = provenance(Path(app.env.doc2path(page)))
    if made:
        context["body"] += footer(made)
    if 'class="mp-slider"' in context["body"]:
        app.add_js_file("mp-slider.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the above to Sphinx."""
    app.add_config_value("mp_repository", "", "env", types=frozenset({str}))
    app.add_config_value("comments_config", {}, "html")  # Jupyter Book sets it in any case
    if app.config.mp_repository:
        app.setup_extension("sphinxext.opengraph")
    app.connect("config-inited", turn_on_public_address)
    app.connect("doctree-read", require_alternatives)
    app.connect("doctree-read", mark_charts)
    app.connect("html-page-context", finish_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
