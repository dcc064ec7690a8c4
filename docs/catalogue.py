"""Write tempering/board/catalogue.tsv, what the board ships of the catalogue: `python docs/catalogue.py FOLDER`.

The folder holds catalogue.tsv and papers.md. Of every paper come its id, name, kind, family, title, one short line of the mechanism and, where it is
outside, why. `made` gives the same text for the same folder, and a test compares it with the file that is committed.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILE = HERE.parent / "tempering" / "board" / "catalogue.tsv"
COLUMNS = ("id", "name", "kind", "family", "title", "mechanism", "outside")


def short(text: str, least: int = 50, most: int = 170) -> str:
    """The first clause of between `least` and `most` characters, with no bracket left open; else the first words and an ellipsis."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    for found in re.finditer(r"[.;](?= )", text):
        head = text[: found.start()]
        if least <= len(head) <= most and all(head.count(a) == head.count(b) for a, b in ("()", "[]", "{}")):
            return head
    return text[: text.rindex(" ", 0, most - 2)].rstrip(" ,;:(") + " …"


def reason(notes: str) -> str:
    """Why a paper is outside: the first clause of its notes."""
    text = re.sub(r"^(outside|nothing):\s*", "", notes.strip(), flags=re.IGNORECASE)
    return re.split(r"[.;](?: |$)", text)[0]


def made(folder: Path) -> str:
    """The file's text, from a folder with the whole catalogue."""
    titles = dict(re.findall(r"^## (S\d{3}) (.+)$", (folder / "papers.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    lines = ["\t".join(COLUMNS)]
    with (folder / "catalogue.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            outside = reason(row["notes"]) if row["kind"] == "outside" else ""
            cells = (row["id"], row["name"], row["kind"], row["family"], titles.get(row["id"], ""), short(row["mechanism"]), outside)
            lines.append("\t".join(" ".join(cell.split()) for cell in cells))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    FILE.write_text(made(Path(sys.argv[1])), encoding="utf-8")
