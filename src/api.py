"""The service's entry: ``uvicorn src.api:app --host 0.0.0.0 --port 8000``.

The environment is read here, once. A wrong setting ends the start with one line.
"""

import os

from heartdx.serve import from_environment

app = from_environment(os.environ)
