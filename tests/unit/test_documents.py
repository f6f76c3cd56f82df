"""A document says what the run knows, says *not stated* for the rest, and invents no number."""

from __future__ import annotations

import re
from typing import Any

import pytest
from documents_kit import (
    changed,
    evaluation,
    facts,
    manifest,
    paths,
    rows,
    sentences,
    without,
)

from heartdx.contract import OUTCOME
from heartdx.documents import (
    DOCUMENTS,
    NOT_STATED,
    Facts,
    numbers_without_evidence,
    probast,
    render,
    tables,
    tripod,
)
from heartdx.documents import card as _card  # noqa: F401  (the module behind the name)
from heartdx.errors import UsageError

LONGEST_SENTENCE = 45
"""Words; a list of findings is longer, but each of its parts is not."""

# TRIPOD+AI, BMJ 2024;385:e078378, table 2: the items with their letters.
TRIPOD_ITEMS = (
    "1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 "
    "16 17 18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c"
).split()
CARD_SECTIONS = (
    "Model|Intended use|Factors|Training data|Evaluation data|Performance by panel|Calibration|"
    "Decisions at the declared threshold|In a hospital it has not seen|Groups of patients|Limits|"
    "Ethical considerations|Before use in a hospital|How to reproduce|Sources"
).split("|")


def everything(run: Facts) -> str:
    return "\n".join(render(name, run) for name in DOCUMENTS)
