"""What stays in float in a quantized model, and why, as the tables of the code say it.

    python docs/reference/stays_float.py

prints the part of docs/quantization.md between its two marks; a test asks that it is
the same. Layers and operations without an integer form are those with neither a flow
nor an expansion; the reasons are the texts of the `StaysFloat` that expansions raise.
"""

import ast
import inspect
import textwrap
from pathlib import Path

import keras

from tfcompress.layers import rows, rule_of_type

ROOT = Path(__file__).resolve().parents[2]
_ROWS = {row.layer_type: row for row in rows()}
# Layers of other frameworks and bases of classes.
_NO_LAYERS = {
    *("FlaxLayer", "InputSpec", "JaxLayer", "Lambda", "Layer", "Pipeline"),
    *("TFSMLayer", "TorchModuleWrapper", "Wrapper"),
}


def layers_in_float():
    """Returns the names of Keras' layers that no integers can compute."""
    classes = {
        cls.__name__: cls
        for cls in vars(keras.layers).values()
        if inspect.isclass(cls) and issubclass(cls, keras.layers.Layer)
    }
    return sorted(name for name, cls in classes.items() if _has_no_form(name, cls))


def _has_no_form(name, cls):
    rule = rule_of_type(cls)
    known = any(_has_form(kind) for kind in cls.__mro__)
    opened = name in _NO_LAYERS or issubclass(cls, keras.layers.TimeDistributed)
    cell = name.endswith("Cell") or name.endswith("Cells")
    # Recurrent layers by what they are, not by what they come from: their cell counts.
    known &= not issubclass(cls, keras.layers.RNN) or _has_form(cls)
    return not (known or opened or cell or (rule and rule.flow != "float"))


def _has_form(kind):
    return kind in _ROWS and _ROWS[kind].expansion is not None


def operations_in_float():
    """Returns the class names of the operations of `keras.ops` without such a form."""
    todo, names = [keras.Operation], set()
    while todo:
        for cls in todo.pop().__subclasses__():
            if not issubclass(cls, keras.layers.Layer):
                todo.append(cls)
                if cls.__module__.split(".")[0] == "keras":
                    names.add(cls.__name__)
    return sorted(
        name
        for name in names
        if (name not in _ROWS or not _ROWS[name].flow) and not _has_form(name)
    )


def reasons():
    """Returns `(reason, way out)` of every refusal in the code, in their order."""
    found = []
    for path in sorted((ROOT / "tfcompress/quantization").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "id", None)
            if name == "StaysFloat" and len(node.args) == 2:
                texts = [_text(argument) for argument in node.args]
                if None not in texts:
                    found.append(tuple(texts))
    return sorted(dict.fromkeys(found))


def _text(node):
    """Returns a text as it stands in the code, its values as dots."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.JoinedStr):
        constants = (isinstance(part, ast.Constant) for part in node.values)
        return "".join(
            part.value if constant else "..."
            for part, constant in zip(node.values, constants)
        )
    return None


def table():
    """Returns the part of the document."""
    rows = [f"| {reason} | {way_out} |" for reason, way_out in reasons()]
    listed = ", ".join(f"`{name}`" for name in layers_in_float())
    operations = ", ".join(f"`{name}`" for name in operations_in_float())
    return "\n".join(
        [
            _wrapped(f"Layers without an integer form: {listed}."),
            "",
            _wrapped(f"Operations of `keras.ops` without one, by class: {operations}."),
            "",
            "Layers and operations that have an integer form stay in float in these "
            "cases:",
            "",
            "| why | what to do |",
            "|---|---|",
            *rows,
        ]
    )


def _wrapped(text):
    return textwrap.fill(text, 100, break_long_words=False)


if __name__ == "__main__":
    print(table())
