"""What an export format is: one class in one file, found through `EXPORTERS`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfcompress.core.errors import ArtifactError, InvalidArgumentError
from tfcompress.core.registry import Registry
from tfcompress.exporters.limits import Limits

if TYPE_CHECKING:
    from tfcompress.exporters.artifact import Artifact
    from tfcompress.exporters.runners import Runner


@dataclass(frozen=True)
class Exporter:
    """Base class of the export formats; its fields are the format's options.

    Subclass it, register the class with `EXPORTERS.register(name)` and implement
    the four methods to add a format. `limits` says what the format cannot take.
    """

    limits: ClassVar[Limits] = Limits("a runtime of its own")
    #: Whether an artifact is one file; its manifest then stands beside it.
    one_file: ClassVar[bool] = False
    #: The module that runs the format; its own memory is not the artifact's.
    runtime_module: ClassVar[str] = ""
    #: Packages that convert and run the format, whose versions the manifest holds.
    packages: ClassVar[tuple[str, ...]] = ()

    def export(
        self, model: Any, filepath: Path, input_signature: Any, calibration_data: Any
    ) -> "Artifact":
        """Writes `model` to `filepath` atomically and returns what was written."""
        raise NotImplementedError

    def matches(self, filepath: Path) -> bool:
        """Returns whether `filepath` looks like an artifact of this format."""
        raise NotImplementedError

    def inspect(self, filepath: Path) -> "Artifact":
        """Returns the description of the artifact at `filepath`."""
        raise NotImplementedError

    def runner(self, filepath: Path, threads: int | None) -> "Runner":
        """Returns a runner for the artifact at `filepath`."""
        raise NotImplementedError

    def with_options(self, options: dict[str, Any]) -> "Exporter":
        """Returns this exporter with some of its options replaced.

        Raises:
            InvalidArgumentError: if the format has no such option, or it is not as it
                must be: any word would be true.
        """
        known = [field.name for field in dataclasses.fields(self)]
        unknown = [name for name in options if name not in known]
        if unknown:
            raise InvalidArgumentError(
                f"{type(self).__name__} has no option {', '.join(map(repr, unknown))}.",
                received=", ".join(f"{name}={options[name]!r}" for name in unknown),
                expected=f"one of {', '.join(map(repr, known))}",
            )
        for field in dataclasses.fields(self):
            value = options.get(field.name, field.default)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise InvalidArgumentError(
                    f"Option '{field.name}' is true or false.",
                    received=repr(value),
                    expected="True or False; on the command line true, yes, on, false, "
                    "no or off",
                )
        return dataclasses.replace(self, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns the options, for `keras.saving`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Exporter":
        """Returns the exporter with the options `config`."""
        return cls(**config)


EXPORTERS: Registry[Exporter] = Registry("export format", Exporter)


def get_exporter(format: Any) -> Exporter:
    """Returns the exporter of a format's name, config or instance.

    Raises:
        InvalidArgumentError: if there is no such format.
    """
    return EXPORTERS.get(format)


def exporter_for(filepath: Path) -> Exporter:
    """Returns the exporter whose format the artifact at `filepath` has.

    Raises:
        ArtifactError: if nothing is there, or no format knows it.
    """
    if not filepath.exists():
        raise ArtifactError(
            "There is no artifact at this path.",
            received=str(filepath),
            expected="a file or directory written by `tfcompress.export`",
        )
    for name in EXPORTERS.names():
        exporter = EXPORTERS.get(name)
        if exporter.matches(filepath):
            return exporter
    raise ArtifactError(
        "This is not an artifact of a known format, or it is damaged.",
        received=str(filepath),
        expected=f"an artifact of format {' or '.join(EXPORTERS.names())}",
        fix="export the model again",
    )
