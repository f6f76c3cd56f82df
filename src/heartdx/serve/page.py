"""The documentation page, from files of an installed package: nothing is fetched from elsewhere."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi.openapi.docs import get_swagger_ui_html

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
"""The page's files and their media types."""

_PACKAGE = "fastapi_offline"


def page(title: str) -> bytes:
    """The page's HTML; its links are relative, so it works behind any path prefix."""
    response = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="docs/assets/swagger-ui-bundle.js",
        swagger_css_url="docs/assets/swagger-ui.css",
        swagger_favicon_url="docs/assets/favicon.png",
        # Without this the page offers the document to an online validator.
        swagger_ui_parameters={"validatorUrl": None},
    )
    return bytes(response.body)


def asset(name: str) -> bytes:
    """The content of one of ``ASSETS``."""
    found = find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"{_PACKAGE} is not installed; the page has no files")
    return (Path(found.submodule_search_locations[0]) / "static" / name).read_bytes()
