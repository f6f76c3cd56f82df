"""heartdx: a diagnostic probability of coronary artery disease that can be trusted and served."""

if __name__ != "heartdx":
    raise ImportError(
        f"heartdx was imported as {__name__!r}, which would load every module twice; "
        "write `import heartdx` (the runbook's entries do)"
    )

__version__ = "0.1.0"
