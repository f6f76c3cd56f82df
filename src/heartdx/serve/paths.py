"""Which paths are which: the doors that a limit, a key or a stop tells apart."""

from __future__ import annotations

from starlette.types import Scope

PREDICTIONS = frozenset({"/predict", "/v1/predict", "/v1/predict/batch", "/invocations"})
"""Doors that give probabilities, with ``/v2/…/infer`` (see :func:`is_prediction`)."""
STREAMS = frozenset({"/v1/predict/batch"})
"""Doors whose body may come for as long as its parts keep coming."""
READINESS = frozenset({"/readyz", "/v2/health/ready"})
HEALTH = frozenset({"/health", "/livez", "/ping", "/v2/health/live", *READINESS})
METRICS = "/metrics"
ALWAYS_OPEN = HEALTH | {METRICS}
"""Never shed and never rate limited; ``/metrics`` does ask for a key."""
DOCUMENTS = frozenset({"/docs", "/openapi.json"})
"""Open without a key: they hold the public contract and nothing of a patient or a model."""
DOCS = "/docs"


def is_prediction(path: str) -> bool:
    """Whether a path is a door that gives probabilities.

    Examples
    --------
    >>> is_prediction("/v2/models/heartdx/infer"), is_prediction("/v2/models/heartdx")
    (True, False)
    """
    return path in PREDICTIONS or (path.startswith("/v2/") and path.endswith("/infer"))


def route_path(scope: Scope) -> str:
    """The path the routes see: without the prefix the service stands behind."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
