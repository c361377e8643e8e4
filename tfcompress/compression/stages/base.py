"""Stage: one line of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tfcompress.compression.run import Run
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.registry import Registry
from tfcompress.exporters.artifact import Artifact
from tfcompress.pruning.criteria import CRITERIA, NEEDS, criteria_with

Schema = dict[str, Any]

SHARE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
COUNT = {"type": "integer", "minimum": 1}


def argument(
    schema: Schema | Callable[[], Schema], default: Any = dataclasses.MISSING
) -> Any:
    """Returns a field of a stage.

    Args:
        schema: JSON Schema of its values, or a function that returns it when asked.
        default: its default; without one the argument must be given. A default of
            None means that the argument may be left out.
    """

    def or_nothing() -> Schema:
        return {"anyOf": [schema() if callable(schema) else schema, {"type": "null"}]}

    known = or_nothing if default is None else schema
    return dataclasses.field(default=default, metadata={"schema": known})


def criterion(*available: str, default: str = "magnitude") -> Any:
    """Returns the field of a criterion that needs one of these things of `NEEDS`."""
    known = criteria_with("criterion of a stage", *available)

    def schema() -> Schema:
        # Made when it is asked for, with the criteria that users have registered.
        others = sorted({*CRITERIA.names()} - {*known.names()})
        reasons = (f"{name} {NEEDS[CRITERIA.class_of(name).needs]}" for name in others)
        comment = "PruneWeights in a fit of your own knows the others: "
        return {"enum": known.spellings(), "$comment": comment + "; ".join(reasons)}

    return argument(schema, default)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step from the trained model to the deployed one; its fields are arguments.

    A stage changes the model now (`shrink`), changes what the fits to come do
    (`prune`), or is a fit. Subclasses are frozen dataclasses, registered in `STAGES`
    under the name that recipes call them by.
    """

    name: ClassVar[str] = ""
    # Whether it costs epochs, so that what it made is worth keeping.
    trains: ClassVar[bool] = False
    # Whether it does nothing by itself, only in a fit that follows.
    needs_fit: ClassVar[bool] = False
    # Whether it changes the written file, and not the model.
    of_file: ClassVar[bool] = False

    def check(self) -> None:
        """Raises if what it needs is not installed; asked before any stage."""

    def apply(self, run: Run) -> None:
        """Changes `run`."""
        raise NotImplementedError

    def rewritten(
        self, source: Artifact | Path, target: Path, samples: Callable[[int], Any]
    ) -> Artifact:
        """Makes another file of the exported one, where the stage is `of_file`.

        Args:
            source: the float file.
            target: where to write.
            samples: returns so many inputs of the training data.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Returns the JSON Schema of the arguments."""
        fields = dataclasses.fields(cls)
        schemas = {f.name: f.metadata["schema"] for f in fields}
        needed = [f.name for f in fields if f.default is dataclasses.MISSING]
        return {
            "type": "object",
            "description": (cls.__doc__ or "").splitlines()[0],
            "properties": {n: s() if callable(s) else s for n, s in schemas.items()},
            "required": needed,
            "additionalProperties": False,
        }

    def __str__(self) -> str:
        arguments = ", ".join(f"{k} {_short(v)}" for k, v in self.get_config().items())
        return f"{self.name} ({arguments})" if arguments else self.name

    def one_of(self, *names: str) -> None:
        """Raises unless exactly one of these arguments is given."""
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidArgumentError(
                f"Stage '{self.name}' needs one target.",
                received=" and ".join(given) or "none",
                expected=f"one of {', '.join(names)}",
            )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


STAGES: Registry[Stage] = Registry("stage of a recipe", Stage)
