"""Distillation: a student learns from labels and from what a teacher says."""

from tfcompress.distillation.deep_supervision import deep_supervision
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.generations import born_again, distill_chain
from tfcompress.distillation.initialization import initialize_from
from tfcompress.distillation.students.boosted_trees import (
    BoostedTrees,
    distill_into_trees,
)
from tfcompress.distillation.students.heads import HeadReport, compress_predictions
from tfcompress.distillation.students.tree import SoftDecisionTree, TreePath
from tfcompress.distillation.teachers.cache import cache_teacher
from tfcompress.distillation.teachers.ensemble import TeacherEnsemble
from tfcompress.distillation.teachers.files import TFLiteTeacher

__all__ = [
    "BoostedTrees",
    "Distiller",
    "HeadReport",
    "SoftDecisionTree",
    "TFLiteTeacher",
    "TeacherEnsemble",
    "TreePath",
    "born_again",
    "cache_teacher",
    "compress_predictions",
    "deep_supervision",
    "distill_chain",
    "distill_into_trees",
    "initialize_from",
]
