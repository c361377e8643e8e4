"""Reading YAML against a JSON Schema, with errors that name the line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tfcompress.core.errors import InvalidArgumentError

_DEEPEST = 20
_LARGEST = 2**53  # as many as a float counts


def read(text: str, schema: dict[str, Any], source: str) -> Any:
    """Returns what a YAML (or JSON) text holds.

    Args:
        text: the text.
        schema: a JSON Schema.
        source: what errors call the text, such as its path.

    Raises:
        InvalidArgumentError: if it is no YAML or not as the schema says.
    """
    import jsonschema
    import yaml

    try:
        odd = _odd(yaml.parse(text))
        node = None if odd else yaml.compose(text, Loader=yaml.SafeLoader)
        content = None if odd else yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or type(error).__name__
        raise _wrong(
            source, mark.line + 1 if mark else None, problem, "YAML or JSON"
        ) from error
    if odd:
        raise _wrong(source, None, odd, "values written out, a few levels deep")
    if node is None:
        raise _wrong(source, None, "an empty text", "a mapping with 'stages'")
    validator = jsonschema.Draft202012Validator(schema)
    errors = sorted(validator.iter_errors(content), key=_importance)
    if errors:
        first = errors[0]
        path = list(first.absolute_path)
        raise _wrong(
            source,
            _line(node, path),
            f"{_where(path)}: {_short(first.message)}",
            _expected(first),
        )
    for path, number in _numbers(content, []):
        if not -_LARGEST <= number <= _LARGEST:  # and what is no number is in no order
            raise _wrong(
                source,
                _line(node, path),
                f"{_where(path)}: {number:.3g}",
                "a finite number",
            )
    return content


def _numbers(value: Any, path: list[Any]) -> Iterator[tuple[list[Any], float]]:
    """Yields all numbers of a recipe and where they are."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, [*path, key])
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _numbers(part, [*path, index])
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _odd(events: Any) -> str | None:
    """Returns what could make a small text take more time or memory than there is."""
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            return "an alias (*name)"
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            return f"more than {_DEEPEST} levels of lists and mappings"
    return None


def _importance(error: Any) -> tuple:
    # A name that is not known is often what another one, missed, was meant to be.
    return [str(p) for p in error.path], error.validator != "additionalProperties"


def _wrong(
    source: str, line: int | None, received: Any, expected: str
) -> InvalidArgumentError:
    where = source if line is None else f"{source}, line {line}"
    return InvalidArgumentError(
        f"The recipe is not as it should be ({where}).",
        received=received,
        expected=expected,
    )


def _line(node: Any, path: list[Any]) -> int:
    """Returns the line of what a path leads to, counted from 1."""
    for step in path:
        if isinstance(step, int):
            node = node.value[step]
            continue
        pairs = {key.value: value for key, value in node.value}
        keys = {key.value: key for key, _ in node.value}
        if not hasattr(pairs[step], "value"):
            return keys[step].start_mark.line + 1
        node = pairs[step]
    return node.start_mark.line + 1


def _where(path: list[Any]) -> str:
    parts = [f"[{p}]" if isinstance(p, int) else f".{p}" for p in path]
    return "".join(parts).lstrip(".") or "the recipe"


def _short(text: str) -> str:
    return text if len(text) < 200 else text[:197] + "..."


def _expected(error: Any) -> str:
    rule, value = error.validator, error.validator_value
    if rule == "additionalProperties":
        return "one of " + ", ".join(sorted(error.schema["properties"]))
    if rule == "enum":
        comment = error.schema.get("$comment")
        return "one of " + ", ".join(map(str, value)) + (f"; {comment}" * bool(comment))
    if rule == "required":
        return "the entries " + ", ".join(value)
    if rule == "anyOf":
        return "; or ".join(_plain(option) for option in value)
    return _plain({rule: value})


def _plain(schema: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in schema.items())
