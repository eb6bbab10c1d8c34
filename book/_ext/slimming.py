"""What the theme sends with every page and no page uses: left out when the book is built."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from sphinx.application import Sphinx

ICON = re.compile(
    r'(?:"([\w-]+)"|([A-Za-z_$][\w$]*)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",'
    r'(?:"[^"]*"|\[[^\]]*\])\],?'
)
"""One of the two thousand icons in the theme's script: its name, its other names, its path."""
COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
RULE = re.compile(r"(?<=[{}])([^{}@]+)\{[^{}]*\}")
"""One innermost rule of a style sheet, with its selectors; @font-face and the like are none."""
NOT = re.compile(r":not\([^()]*\)")
CLASS = re.compile(r"\.(?!bs-)(-?[A-Za-z_][\w-]*)")  # Bootstrap composes the names in bs-
WORD = re.compile(r"[\w-]+")
SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:_static/searchtools|_static/language_data|searchindex)\.js[^"]*">'
    r"</script>"
)
"""The scripts of a search, which the theme loads with every page; a search has its own page."""


def drop_icons(script: str, used: set[str]) -> str:
    """The theme's script of icons with those alone of which a name is used: 1.4 MB less."""

    def kept(icon: re.Match[str]) -> str:
        names = {icon[1] or icon[2], *WORD.findall(icon[3])}
        return icon[0] if names & used else ""

    return ICON.sub(kept, script)


def drop_rules(sheet: str, words: set[str]) -> str:
    """A style sheet without the rules that need a class of which no page or script has the word.

    A rule stays where one of its selectors could match, and where it lists selectors in brackets.
    """

    def kept(rule: re.Match[str]) -> str:
        if ":is(" in rule[1] or ":where(" in rule[1]:
            return rule[0]
        selectors = NOT.sub("", rule[1].replace("\\", "")).split(",")
        live = any(words.issuperset(CLASS.findall(selector)) for selector in selectors)
        return rule[0] if live else ""

    sheet = COMMENT.sub("", sheet)
    return RULE.sub(kept, sheet)


def chosen(colours: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Places of 256 colours of (N, 4) that all are near to: the commonest, then the farthest."""
    kept = list(np.argsort(-counts, kind="stable")[:96])
    apart = np.min([((colours - colours[one]) ** 2).sum(1) for one in kept], axis=0)
    while len(kept) < min(256, len(colours)):
        kept.append(int(apart.argmax()))
        apart = np.minimum(apart, ((colours - colours[kept[-1]]) ** 2).sum(1))
    return np.array(kept)


def with_palette(picture: bytes) -> bytes:
    """A PNG with numbers of a palette for pixels: the same picture, to the eye, half as long.

    Exact where there are 256 colours at most. Returned as it is where a value, seen before black,
    would move by more than 8 of 255, or where nothing is saved.
    """
    pixels = np.asarray(Image.open(BytesIO(picture)).convert("RGBA"))
    flat, places, counts = np.unique(
        pixels.copy().view(np.uint32).ravel(), return_inverse=True, return_counts=True
    )
    if len(flat) > 10_000:
        return picture
    seen = flat.view(np.uint8).reshape(-1, 4).astype(np.float32)
    seen[:, :3] *= seen[:, 3:] / 255
    kept = chosen(seen, counts)
    near = np.array([((seen[kept] - one) ** 2).sum(1).argmin() for one in seen])
    if np.abs(seen - seen[kept][near]).max() > 8:
        return picture
    small = Image.fromarray(near.astype(np.uint8)[places].reshape(pixels.shape[:2]), "P")
    small.putpalette(flat[kept].view(np.uint8).tobytes(), "RGBA")
    written = BytesIO()
    small.save(written, "PNG", optimize=True)
    return min(picture, written.getvalue(), key=len)


def slim(app: Sphinx, error: Exception | None) -> None:
    """Leave icons, rules and scripts out of the built book, and shorten pictures."""
    out, static = Path(app.outdir), Path(app.outdir) / "_static"
    icons = static / "scripts" / "fontawesome.js"
    if error or app.builder.format != "html" or not icons.is_file():
        return
    pages = [path for path in out.rglob("*.html") if static not in path.parents]
    for path in pages:
        text = path.read_text(encoding="utf-8")
        if path.name != "search.html" and (light := SEARCH.sub("", text)) != text:
            path.write_text(light, encoding="utf-8")
    scripts = (path for path in static.rglob("*.js") if path != icons)
    texts = [path.read_text(encoding="utf-8") for path in (*pages, *scripts)]
    used = {name for text in texts for name in re.findall(r"\bfa-([a-z0-9-]+)", text)}
    icons.write_text(drop_icons(icons.read_text(encoding="utf-8"), used), encoding="utf-8")
    words = {word for text in texts for word in WORD.findall(text)}
    for image in (out / "_images").glob("*.png"):
        image.write_bytes(with_palette(image.read_bytes()))
    for sheet in static.rglob("*.css"):
        sheet.write_text(drop_rules(sheet.read_text(encoding="utf-8"), words), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when all is written."""
    app.connect("build-finished", slim, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
