"""Write the default data file: ``python data/download_data.py --output data/raw/heart.csv``."""

import sys

from heartdx.cli import main

if __name__ == "__main__":
    sys.exit(main(["fetch", *sys.argv[1:]], prog="python data/download_data.py"))
