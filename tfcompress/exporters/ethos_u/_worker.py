"""Jobs of the child process for the "ethos_u" format."""

import csv
import sys
from pathlib import Path
from typing import Any

_MEMORIES = ("sram", "dram", "on_chip_flash", "off_chip_flash")


def compile_file(job: dict[str, Any]) -> dict[str, Any]:
    """Compiles the .tflite file at `path` with Vela, into `folder`.

    Returns the totals and the operations of Vela's tables, and for each of its
    operators under which conditions the NPU takes it.
    """
    from ethosu import regor
    from ethosu.vela.vela import main

    recursion = sys.getrecursionlimit()
    try:
        code = main([job["path"], "--output-dir", job["folder"], *job["arguments"]])
    finally:
        sys.setrecursionlimit(recursion)
    if code:
        raise RuntimeError(f"Vela ended with code {code}")
    folder, stem = Path(job["folder"]), Path(job["path"]).stem
    (summary,) = _rows(next(folder.glob(f"{stem}_summary_*.csv")))
    return {
        "compiled": str(folder / f"{stem}_vela.tflite"),
        "cycles": _whole(summary["cycles_total"]),
        "clock": float(summary["core_clock"]),
        "memories": {
            # Vela writes KiB.
            name: round(1024 * float(summary[f"{name}_memory_used"]))
            for name in _MEMORIES
        },
        "operations": [
            {
                "target": row["Target"],
                "tensor": row["Name"],
                "cycles": _whole(row["Op Cycles"]),
                "sram": _whole(row["Staging Usage"]),
                "macs": _whole(row["MAC Count"]),
            }
            for row in _rows(folder / f"{stem}_per-layer.csv")
        ],
        "conditions": regor.tflite_operator_constraints(job["constraints"]),
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _whole(text: str) -> int:
    return round(float(text or 0))


JOBS = {"compile": compile_file}
