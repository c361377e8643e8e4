"""Recipe: the stages of a compression, as an object and as a YAML or JSON file."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import os
from pathlib import Path
from typing import Any

from tfcompress.compression.stages import STAGES, Fit, Stage
from tfcompress.core.arguments import one_of
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import EXPORTERS
from tfcompress.exporters.publishing import staged

VERSION = 1
_LARGEST = 1 << 20  # bytes of a file that a person could have written


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to do with a model, stage by stage, and to which format to export it.

    When to use: as the `recipe` of `compress`, to repeat what is known to work; every
    `Result` has the recipe that made it. `Recipe.ready(name)` returns one of those that
    are built in: `"phone"`, `"microcontroller"`, `"server"` and `"browser"`.

    Args:
        stages: instances of the classes in `tfcompress.compression.stages`.
        target: format of the artifact, as in `export`.
        export: options of that format.
        seed: seed of everything random, at least 0.
        name: a name for people.

    Raises:
        InvalidArgumentError: if a stage has no fit to act in, or the target is not
            known.

    Example:

    >>> from tfcompress.compression.stages import Fit, Prune, Quantize
    >>> recipe = Recipe((Prune(0.8), Fit(2), Quantize(), Fit(1, 0.1)), name="mine")
    >>> print(recipe.to_yaml())
    tfcompress: 1
    name: mine
    target: tflite
    seed: 0
    stages:
    - prune:
        sparsity: 0.8
    - fit:
        epochs: 2
    - quantize: {}
    - fit:
        epochs: 1
        learning_rate: 0.1
    <BLANKLINE>
    """

    stages: tuple[Stage, ...]
    target: str = "tflite"
    export: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0
    name: str = "recipe"

    def __post_init__(self) -> None:
        # Frozen dataclasses have no other way to tidy what they were given.
        object.__setattr__(self, "stages", tuple(self.stages))
        wrong = [stage for stage in self.stages if not isinstance(stage, Stage)]
        if wrong:
            raise InvalidArgumentError(
                "A recipe is made of stages.",
                received=repr(wrong[0]),
                expected="instances of classes in tfcompress.compression.stages",
            )
        EXPORTERS.get(self.target)
        waiting: Stage | None = None
        for stage in self.stages:
            if stage.trains:
                waiting = None
            elif stage.needs_fit:
                waiting = waiting or stage
        if waiting is not None:
            raise InvalidArgumentError(
                f"Stage '{waiting.name}' has no fit to act in.",
                received=" -> ".join(stage.name for stage in self.stages),
                expected="a stage 'fit' after it",
            )
        self._check_file_stages()

    def _check_file_stages(self) -> None:
        """Raises unless what changes the file is the one end of a float recipe."""
        last = self.of_file
        if last is None and not any(stage.of_file for stage in self.stages):
            return
        before = [stage.name for stage in self.stages[:-1]]
        name = next(stage.name for stage in self.stages if stage.of_file)
        if last is None or name in before or "quantize" in before:
            raise InvalidArgumentError(
                f"Stage '{name}' changes the file of a float model.",
                received=" -> ".join(stage.name for stage in self.stages),
                expected="it as the last stage, without a stage 'quantize' before it",
            )
        if self.target != "tflite":
            raise InvalidArgumentError(
                f"Stage '{name}' changes .tflite files only.",
                received=f"target {self.target!r}",
                expected="target 'tflite'",
                fix="use the stage 'quantize'",
            )

    @property
    def of_file(self) -> Stage | None:
        """The last stage, if it changes the written file and not the model."""
        last = self.stages[-1] if self.stages else None
        return last if last is not None and last.of_file else None

    def trained_longer(self, times: int) -> Recipe:
        """Returns the recipe with so many times the epochs in each fit."""
        stages = tuple(
            dataclasses.replace(stage, epochs=times * stage.epochs)
            if isinstance(stage, Fit)
            else stage
            for stage in self.stages
        )
        return dataclasses.replace(self, stages=stages)

    @property
    def epochs(self) -> int:
        """Passes over the training data, all fits together."""
        return sum(stage.epochs for stage in self.stages if isinstance(stage, Fit))

    @classmethod
    def ready(cls, name: str) -> Recipe:
        """Returns a recipe that comes with the package.

        Args:
            name: `"phone"`, `"microcontroller"`, `"server"` or `"browser"`.
        """
        names = cls.ready_names()
        expected = f"one of {', '.join(map(repr, names))}, or the path of a file"
        one_of(name, "There is no recipe of this name.", names, expected)
        return cls.from_text(_folder().joinpath(f"{name}.yaml").read_text("utf-8"))

    @staticmethod
    def ready_names() -> list[str]:
        """Returns the names of the recipes that come with the package."""
        files = (file.name for file in _folder().iterdir())
        return sorted(name[:-5] for name in files if name.endswith(".yaml"))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Recipe:
        """Reads a recipe from a YAML or JSON file.

        Args:
            path: the file.

        Raises:
            InvalidArgumentError: with the line, if the file is not as it should be.
        """
        path = Path(path)
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError(f"{path.stat().st_size:,} bytes")
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise InvalidArgumentError(
                "The recipe cannot be read.",
                received=f"{path} ({error})",
                expected=f"a YAML or JSON file of at most {_LARGEST:,} bytes",
            ) from error
        return cls.from_text(text, str(path))

    @classmethod
    def from_text(cls, text: str, source: str = "recipe") -> Recipe:
        """Returns the recipe that a YAML or JSON text describes.

        Args:
            text: the text.
            source: what errors call it.
        """
        from tfcompress.compression.recipe_text import read

        content = read(text, schema(), source)
        return cls(
            tuple(_stage(entry) for entry in content["stages"]),
            content.get("target", "tflite"),
            content.get("export", {}),
            content.get("seed", 0),
            content.get("name", "recipe"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns what `to_yaml` and `to_json` write."""
        content: dict[str, Any] = {
            "tfcompress": VERSION,
            "name": self.name,
            "target": self.target,
            "seed": self.seed,
            "stages": [{stage.name: stage.get_config()} for stage in self.stages],
        }
        if self.export:
            content["export"] = dict(self.export)
        return content

    def to_yaml(self) -> str:
        """Returns the recipe as YAML."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def to_json(self) -> str:
        """Returns the recipe as JSON."""
        # Not escaped: YAML, which reads it, does not join halves of a character.
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the recipe: JSON if the path ends in .json, else YAML."""
        path = Path(path)
        text = self.to_json() + "\n" if path.suffix == ".json" else self.to_yaml()
        with staged(path, overwrite=True) as stage:
            stage.write_text(text, encoding="utf-8")

    def __str__(self) -> str:
        return " -> ".join(map(str, self.stages)) or "nothing"


def schema() -> dict[str, Any]:
    """Returns the JSON Schema of recipe files."""
    names = STAGES.names()
    stage = {
        "type": "object",
        "properties": {name: STAGES.class_of(name).schema() for name in names},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of tfcompress",
        "type": "object",
        "properties": {
            "tfcompress": {"const": VERSION, "description": "version of the format"},
            "name": {"type": "string"},
            "target": {"enum": EXPORTERS.names()},
            "seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
            "stages": {"type": "array", "items": stage},
            "export": {"type": "object"},
        },
        "required": ["tfcompress", "stages"],
        "additionalProperties": False,
    }


def _stage(entry: dict[str, Any]) -> Stage:
    ((name, arguments),) = entry.items()
    return STAGES.class_of(name)(**arguments)


def _folder() -> Any:
    return importlib.resources.files("tfcompress.compression") / "recipes"
