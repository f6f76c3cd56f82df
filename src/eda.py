"""``python -m src.eda``: pictures, tables and a page about the data; see ``heartdx explore``."""

import sys

from heartdx.cli import main

if __name__ == "__main__":
    sys.exit(main(["explore", *sys.argv[1:]], prog="python -m src.eda"))
