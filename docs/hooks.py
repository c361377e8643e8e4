"""What the site has beside the pages of docs/: hooks for MkDocs, one for docstrings.

    pip install -e ".[docs]"
    mkdocs serve                # or: mkdocs build --strict

The README is the front page, its neighbours are pages, and the reference is made from
the docstrings. A link that leads nowhere, or a heading that is gone, ends the build.
"""

import ast
import json
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the repository that lie outside of docs/, and where the site has them.
NEIGHBOURS = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CODE_OF_CONDUCT.md": "CODE_OF_CONDUCT.md",
    "savedmodels/README.md": "savedmodels/README.md",
}
#: Files that pages link to.
FILES = ("LICENSE", "CITATION.cff", "examples/*.py", "examples/notebooks/*.ipynb")
#: Where the site has notebooks as pages.
NOTEBOOKS = "notebooks/"
#: What the reference holds: all that `import tfcompress` gives, and the packages that
#: have more than that.
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


#: Of the page of all names.
INTRODUCTION = (
    "The names of every day come first, from `compress` to `report`. The others follow "
    "by the alphabet; they are in the modules of their subject too, such as "
    "`tfcompress.pruning.Lamp` or `tfcompress.quantization.UniformQuantizer`."
)


def on_files(files, config):
    """Adds the pages and files that lie elsewhere."""
    for source, page in NEIGHBOURS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for pattern in FILES:
        for path in ROOT.glob(pattern):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, content=path.read_bytes()))
    for path in sorted((ROOT / "examples/notebooks").glob("*.ipynb")):
        page = f"{NOTEBOOKS}{path.stem}.md"
        files.append(File.generated(config, page, content=notebook_page(path)))
    for module in MODULES:
        text = f"# {module}\n\n::: {module}\n"
        if module == "tfcompress":
            text = f"# {module}\n\n{INTRODUCTION}\n\n::: {module}\n{_in_order()}"
        page = f"reference/{module}.md"
        files.append(File.generated(config, page, content=text))
    return files


def _in_order():
    """Returns the option that lists the public names in their own order.

    They come through `import *`, of which mkdocstrings does not know the order.
    """
    tree = ast.parse((ROOT / "tfcompress/public.py").read_text(encoding="utf-8"))
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    options = f"      group_by_category: false\n      members: {json.dumps(names)}\n"
    return f"    options:\n{options}"


def on_page_markdown(markdown, page, **_):
    """Lets links lead to where the site has what the repository has elsewhere."""
    source = page.file.src_uri
    if source in NEIGHBOURS.values():
        markdown = re.sub(r"\]\(((?:\.\./)?)docs/", r"](\1", markdown)
    elif not source.startswith(("reference/", NOTEBOOKS)):
        markdown = markdown.replace("](../", "](")
    # The mark is for tests/test_docs.py; here it would be no fence at all.
    return markdown.replace("```python no-run\n", "```python\n")


def notebook_page(path):
    """Returns a notebook as Markdown: texts, code, and what the code put out."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = [part for cell in cells for part in _cell(cell)]
    # After the title: where the notebook itself is.
    parts.insert(1, f"[Download the notebook](../examples/notebooks/{path.name}).")
    text = "\n\n".join(parts) + "\n"
    text = text.replace("](../../docs/", "](../")
    return re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)


def _cell(cell):
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield from source.split("\n\n", 1)
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        shown = output.get("data", {})
        if "text/html" in shown:
            yield f'<div class="output">{"".join(shown["text/html"])}</div>'
        else:
            text = "".join(output.get("text") or shown["text/plain"])
            text = f"```text\n{text.rstrip()}\n```"
            yield f'<div class="output" markdown>\n\n{text}\n\n</div>'


class Doctests(griffe.Extension):
    """Puts the examples of docstrings into fences; `>>>` is a quotation otherwise."""

    def on_object(self, *, obj, **_):
        """Rewrites the docstring of one class, function or module."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text):
    """Returns a docstring with a fence around each block of doctests.

    >>> for line in fenced("Example:\\n\\n>>> 1 + 1\\n2\\n\\nThe end.").split("\\n"):
    ...     print(("| " + line.replace("`", "'")).rstrip())
    | Example:
    |
    | '''pycon
    | >>> 1 + 1
    | 2
    | '''
    |
    | The end.
    """
    block = r"^([ ]*)>>> .*(?:\n(?![ ]*$).*)*"
    return re.sub(block, _fence, text, flags=re.MULTILINE)


def _fence(match):
    return f"{match[1]}```pycon\n{match[0]}\n{match[1]}```"
