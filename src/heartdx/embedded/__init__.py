"""The four hospitals' files as UCI publishes them, shipped inside the package.

Rebuilt byte for byte from a registry package by ``tools/rebuild_embedded.py``; CC BY 4.0, see
``LICENSE-DATA.md`` beside this file.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from heartdx.contract import Site
from heartdx.errors import VerificationError


def site_bytes(site: Site) -> bytes:
    """The shipped file of one hospital, verified against UCI's checksum.

    Raises
    ------
    VerificationError
        When the installed file was changed.
    """
    content = (resources.files(__name__) / site.file).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != site.sha256:
        raise VerificationError(
            f"{site.file}: the installed copy has SHA-256 {digest[:12]}…, UCI's has "
            f"{site.sha256[:12]}…; reinstall heartdx"
        )
    return content
