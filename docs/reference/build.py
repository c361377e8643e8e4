"""Builds the API reference from the docstrings, as pages to be opened in a browser.

    pip install -e ".[reference]"
    python docs/reference/build.py site

The pages are those of pdoc: one for everything that `import tfcompress` gives, and one
for each package that has more than that.
"""

import argparse
from pathlib import Path

import pdoc
import pdoc.render

MODULES = (
    "tfcompress",
    "tfcompress.datasets",
    "tfcompress.distillation.losses",
    "tfcompress.exporters",
    "tfcompress.interop",
    "tfcompress.reporting",
    "tfcompress.schedules",
    "tfcompress.serving",
    "tfcompress.testing",
    "tfcompress.trustworthiness",
)


def build(folder: Path) -> None:
    """Writes the pages into a folder."""
    pdoc.render.configure(
        docformat="google",
        template_directory=Path(__file__).parent,
        footer_text="tfcompress",
        show_source=False,
    )
    # A function hides the module of its name, which would have a page of its own.
    hidden = [f"!{name}\\..*" for name in MODULES[1:]]
    pdoc.pdoc(*MODULES, *hidden, output_directory=folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    build(parser.parse_args().folder)
