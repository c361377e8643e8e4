"""Will a model deploy? Asked before it is trained, not after."""

from tfcompress.diagnosis.diagnose import doctor
from tfcompress.diagnosis.findings import Diagnosis, Finding
from tfcompress.diagnosis.targets import TargetTable, doctor_all

__all__ = ["Diagnosis", "Finding", "TargetTable", "doctor", "doctor_all"]
