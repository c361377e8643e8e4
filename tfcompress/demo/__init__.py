"""The demo: a trained model made small in one fit, shipped twice, and checked."""

from tfcompress.demo.models import build_student, build_teacher
from tfcompress.demo.running import DemoResult, run

__all__ = ["DemoResult", "build_student", "build_teacher", "run"]
