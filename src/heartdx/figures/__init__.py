"""Every picture the project draws; the only place that imports matplotlib.

``style`` holds fonts, colours and saving; ``eda`` the pictures of the data; ``training`` those of
the models. Each picture is a pure function: numbers in, a ``matplotlib.figure.Figure`` out. No
pyplot: nothing global is left behind, nothing needs a display.
"""

from matplotlib.figure import Figure

__all__ = ["Figure"]
