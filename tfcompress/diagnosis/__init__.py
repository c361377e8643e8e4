"""Will a model deploy? Asked before it is trained, not after."""

from tfcompress.diagnosis.diagnose import doctor
from tfcompress.diagnosis.findings import Diagnosis, Finding

__all__ = ["Diagnosis", "Finding", "doctor"]
