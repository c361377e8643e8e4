"""Distillation: a student learns from labels and from what a teacher says."""
