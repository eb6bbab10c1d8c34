"""A book of two pages with everything that a page may have; quick to build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import yaml

from helpers.site_rules import Site, build, copy_book

ADDRESS = "https://github.com/Some/thing"
SWITCH = '    mp_repository: "{}"\n'  # the one line of _config.yml that a public book changes
MADE = {
    "parameters": {"dataset": "digits", "radius": 0.3},
    "seed": 7,
    "profile": "quick",
    "versions": {"python": "3.11.2", "torch": "2.15.0"},
    "device": "cpu",
    "processor": "Some Processor 7",
    "settings": {"MKL_CBWR": "COMPATIBLE"},
    "asked": {"environment.yml": ">=3.11"},
    "commit": "abc1234",
    "commit_date": "2026-11-21",
    "duration_s": 12.3,
}
WORDS = r"""# A sample

See [the first page](first.md), and {cite:t}`tramer2019multiple`.

$$
\Radv(f; \sset) = \prob\set{\exists\, r \in \sset : f(x + r) \ne y} \quad\text{and more, and more}
$$ (eq-sample)

```{prf:theorem} Two
:label: thm-two
By {eq}`eq-sample` it is $\norm{\delta}_1 \le \eps$; see [a page](first.md).
```

```{prf:proof}
Clear.
```

```{exercise} One
:label: ex-one
Show it.
```

```{solution} ex-one
:class: dropdown
Look at {prf:ref}`thm-two`.
```

```{exercise} Another
:label: ex-other
Show it again.
```

:::{warning}
A [link](first.md) in a box, and `code`.
:::

| model | $\linf$ | $\lone$ | a long header | another long header | a third long header |
|---|---|---|---|---|---|
| one | 0.1 | 0.2 | 0.3 | 0.4 | 0.5 |
"""


def code_cell(source: str, data: Any, metadata: Any, **tags: Any) -> Any:
    """A code cell that was executed and has shown something."""
    shown = nbformat.v4.new_output("display_data", data, metadata=metadata)
    return nbformat.v4.new_code_cell(source, execution_count=1, outputs=[shown], metadata=tags)


def figure_cell(alt: str | None) -> Any:
    """A cell that has shown a chart, with a caption if it has a text alternative."""
    from mpbook import figures

    figure, _ = figures.canvas(width=2, height=1)
    data, size = figure._repr_mimebundle_()  # type: ignore[attr-defined]
    caption = {"caption": "A caption.", "name": "fig-sample"}
    told = {"image": {"alt": alt}, "figure": caption} if alt is not None else {}
    return code_cell("figure", data, size, mystnb=told)


def pixels_cell() -> Any:
    """A cell that has shown an image; its code is folded."""
    from mpbook import figures

    data, size = figures.show_images([[[[0.0, 1.0], [1.0, 0.0]]]])._repr_mimebundle_()  # type: ignore[attr-defined]
    told = {"image": {"alt": "Four pixels."}}
    return code_cell("pixels", data, size, mystnb=told, tags=["hide-input"])


def slider_cell() -> Any:
    """A cell that has shown a slider of two positions."""
    from mpbook import figures

    frames = [[[[0.0, 1.0], [1.0, 0.0]]], [[[1.0, 1.0], [1.0, 0.0]]]]
    labels = ["radius 0.1", "radius 0.2"]
    slider = figures.slider_figure(
        frames, labels, "radius", "Four pixels.", panels=["ℓ₁"], name="slide"
    )
    return code_cell("slider", slider._repr_mimebundle_(), {})


def small_book(tree: Path, cells: list[Any], repository: str = "") -> Site:
    """Build a book of two pages: a first one, and a notebook of these cells."""
    copy_book(tree)
    kernel = {"name": "python3", "display_name": "Python 3"}
    about = {"mpkit": MADE, "kernelspec": kernel, "language_info": {"name": "python"}}
    title = nbformat.v4.new_markdown_cell(WORDS)
    nbformat.write(
        nbformat.v4.new_notebook(cells=[title, *cells], metadata=about),
        tree / "book" / "sample.ipynb",
    )
    (tree / "book" / "first.md").write_text("# The first page\n\n```{bibliography}\n```\n")
    toc = {"format": "jb-book", "root": "book/first", "chapters": [{"file": "book/sample"}]}
    (tree / "_toc.yml").write_text(yaml.safe_dump(toc))
    config = (tree / "_config.yml").read_text()
    assert config.count(SWITCH.format("")) == 1
    config = config.replace(SWITCH.format(""), SWITCH.format(repository))
    (tree / "_config.yml").write_text(config)
    return build(tree)
