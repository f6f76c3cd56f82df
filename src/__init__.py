"""The runbook's entries: ``python -m src.eda``, ``python -m src.model_train``, ``src.api:app``.

Everything else lives in the installed package ``heartdx`` (``src/heartdx``). Import it as
``heartdx``, never as ``src.heartdx``. This file must stay: without it an unrelated installed
package that happens to be called ``src`` would win.
"""
