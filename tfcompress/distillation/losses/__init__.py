"""Distillation losses, one class per file, found by name through `LOSSES`."""

from tfcompress.distillation.losses.attention_transfer import AttentionTransfer
from tfcompress.distillation.losses.base import LOSSES, DistillationLoss
from tfcompress.distillation.losses.bounded_regression import BoundedRegression
from tfcompress.distillation.losses.contrastive import Contrastive
from tfcompress.distillation.losses.cosine import CosineDistance
from tfcompress.distillation.losses.decoupled import DecoupledKnowledge
from tfcompress.distillation.losses.deep_supervision import DeepSupervision
from tfcompress.distillation.losses.dist import Dist
from tfcompress.distillation.losses.for_output import ForOutput
from tfcompress.distillation.losses.hard_labels import HardLabels
from tfcompress.distillation.losses.hint import Hint
from tfcompress.distillation.losses.logits_mse import LogitsMSE
from tfcompress.distillation.losses.masked_generation import MaskedGeneration
from tfcompress.distillation.losses.multi_label import MultiLabel
from tfcompress.distillation.losses.projected import ProjectedLoss
from tfcompress.distillation.losses.relational_angle import RelationalAngle
from tfcompress.distillation.losses.relational_distance import RelationalDistance
from tfcompress.distillation.losses.similarity import SimilarityPreserving
from tfcompress.distillation.losses.soft_labels import SoftLabels

__all__ = [
    "LOSSES",
    "AttentionTransfer",
    "BoundedRegression",
    "Contrastive",
    "CosineDistance",
    "DecoupledKnowledge",
    "DeepSupervision",
    "Dist",
    "DistillationLoss",
    "ForOutput",
    "HardLabels",
    "Hint",
    "LogitsMSE",
    "MaskedGeneration",
    "MultiLabel",
    "ProjectedLoss",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityPreserving",
    "SoftLabels",
]
