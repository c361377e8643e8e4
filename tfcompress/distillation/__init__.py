"""Distillation: a student learns from labels and from what a teacher says."""

from tfcompress.distillation.boosted_trees import BoostedTrees, distill_into_trees
from tfcompress.distillation.deep_supervision import deep_supervision
from tfcompress.distillation.distiller import Distiller
from tfcompress.distillation.ensemble import TeacherEnsemble
from tfcompress.distillation.file_teachers import TFLiteTeacher
from tfcompress.distillation.generations import born_again, distill_chain
from tfcompress.distillation.heads import HeadReport, compress_predictions
from tfcompress.distillation.initialization import initialize_from
from tfcompress.distillation.teacher_cache import cache_teacher
from tfcompress.distillation.tree import SoftDecisionTree, TreePath

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
