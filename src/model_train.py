"""Entry of the runbook: ``python -m src.model_train``; the same as ``heartdx train``."""

import sys

from heartdx.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]], prog="python -m src.model_train"))
