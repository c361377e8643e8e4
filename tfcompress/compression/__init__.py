"""The one call: from a model and a budget to an artifact and its evidence."""

from tfcompress.compression.budget import Budget, Measures
from tfcompress.compression.candidate import Candidate
from tfcompress.compression.compress import compress
from tfcompress.compression.recipe import Recipe
from tfcompress.compression.result import Result
from tfcompress.compression.search import Search

__all__ = [
    "Budget",
    "Candidate",
    "Measures",
    "Recipe",
    "Result",
    "Search",
    "compress",
]
