"""Write each `docs/notebooks/<name>.py` (percent format) as a notebook. `python docs/notebooks/convert.py`."""

import re
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
NAMES = ("features", "dataset", "head")


def notebook(script: str) -> str:
    """A script's cells as a notebook without outputs; cells are named by their place, so that nothing changes."""
    cells = []
    for number, (kind, text) in enumerate(re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", script, re.M | re.S)):
        plain = re.sub(r"^# ?", "", text, flags=re.M) if kind else text
        make = new_markdown_cell if kind else new_code_cell
        cells.append(make(plain.strip(), id=f"cell-{number}"))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.writes(new_notebook(cells=cells, metadata={"kernelspec": kernel})) + "\n"


if __name__ == "__main__":
    for name in NAMES:
        script = (HERE / f"{name}.py").read_text(encoding="utf-8")
        (HERE / f"{name}.ipynb").write_text(notebook(script), encoding="utf-8")
