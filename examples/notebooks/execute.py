"""Runs the notebooks from the top, and stores what they print.

    python examples/notebooks/execute.py            # all of them, in place

Each runs in a folder of its own that is gone afterwards. Times and logs are not stored:
they would be others with each run.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def executed(path, folder):
    """Returns the notebook with the outputs of a run in `folder`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if not is_log(one)]
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        "language_info": {"name": "python"},
    }
    return notebook


def is_log(output):
    """Returns whether an output is what TensorFlow logs, with paths of the machine."""
    text = output.get("text", "")
    return output.get("name") == "stderr" or text.startswith("INFO:tensorflow:")


def main(names):
    """Runs the notebooks of these paths, or all."""
    for path in map(Path, names) if names else sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, folder)
        nbformat.write(notebook, path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
