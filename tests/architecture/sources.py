"""The package's source as data, for the tests in this folder."""

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tfcompress"


# Folders of a room that others read without it, with a rank of their own.
_ROOMS_WITHIN = {("pruning", "criteria"): "criteria"}


def room_of(parts: Sequence[str]) -> str:
    """Returns the room of a module, by the parts of its name below the package."""
    if not parts:
        return "__init__"
    return _ROOMS_WITHIN.get(tuple(parts[:2]), parts[0])


@dataclasses.dataclass(frozen=True)
class Source:
    """One module: its path in the repository, its room and its syntax tree."""

    path: str
    room: str
    text: str
    tree: ast.Module

    def imports(self) -> Iterator[tuple[int, str]]:
        """Yields `(line, dotted name)` of everything that is imported anywhere."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node)
                for alias in node.names:
                    yield node.lineno, f"{base}.{alias.name}"

    def rooms_used(self) -> Iterator[tuple[int, str]]:
        """Yields `(line, room)` for imports from this package, its own left out."""
        for line, name in self.imports():
            parts = name.split(".")
            if parts[0] == "tfcompress":
                room = room_of(parts[1:])
                if room != self.room:
                    yield line, room

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = Path(self.path).with_suffix("").parts[: -node.level]
        return ".".join([*package, *(node.module or "").split(".")]).rstrip(".")


def parse(path: str, text: str) -> Source:
    """Returns the `Source` of a module at `path` (as `tfcompress/room/module.py`)."""
    room = room_of(Path(path).with_suffix("").parts[1:])
    return Source(path, room, text, ast.parse(text, path))


def package_sources() -> list[Source]:
    """Returns every module of the package."""
    return [
        parse(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]
