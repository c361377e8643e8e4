"""Modules and functions stay small enough to be read at one go."""

from tests.architecture.sources import package_sources

MOST_LINES = 400
MOST_ARGUMENTS = 8  # with self; those that have to be named cannot be confused


def test_modules_are_short():
    lengths = {s.path: len(s.text.splitlines()) for s in package_sources()}
    assert {p: n for p, n in lengths.items() if n >= MOST_LINES} == {}


def test_functions_take_few_arguments():
    found = {}
    for source in package_sources():
        if source.path.startswith("tfcompress/cli/commands/"):
            continue  # a command's arguments are its options
        for function in source.functions():
            given = function.args
            count = len(given.posonlyargs + given.args)
            if count > MOST_ARGUMENTS:
                found[f"{source.path}:{function.lineno} {function.name}"] = count
    assert found == {}


def test_every_module_says_what_it_is_for():
    silent = [
        s.path
        for s in package_sources()
        if s.text.strip() and not (s.tree.body and _is_docstring(s.tree.body[0]))
    ]
    assert silent == []


def _is_docstring(node):
    value = getattr(node, "value", None)
    return isinstance(getattr(value, "value", None), str)
