"""Check the licence of every locked package against the list in tools/waivers.toml.

``python tools/scan_licences.py`` reads what the installed packages say of themselves and writes
reports/licences.md. A licence that is not on the list, one that cannot be read, and a locked
package that is not installed are findings.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from pins import normal, pins, serving
from waivers import ROOT, WAIVERS, Finding, verdict

CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",  # does not say how many clauses
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
TEXTS = {"MIT License": "MIT", "3-Clause BSD License": "BSD-3-Clause"}
LONGEST_EXPRESSION = 80
"""Some packages write their whole licence where its name belongs."""


@dataclass(frozen=True)
class Package:
    """A locked package and what it says its licence is ('' when it is not installed so)."""

    name: str
    version: str
    licence: str
    used_by: str


def main(argv: Sequence[str] | None = None) -> int:
    """Check; write the table; exit 1 when a licence is neither listed nor waived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--table", type=Path, default=ROOT / "reports" / "licences.md")
    arguments = parser.parse_args(argv)
    allowed = tomllib.loads(WAIVERS.read_text(encoding="utf-8"))["licences"]["allowed"]
    packages = list(locked_packages())
    arguments.table.parent.mkdir(parents=True, exist_ok=True)
    arguments.table.write_text(table(packages), encoding="utf-8")
    looked_at = f"{len(packages)} locked packages, listed in {arguments.table}"
    return verdict("licences", findings(packages, frozenset(allowed)), looked_at=looked_at)


def locked_packages() -> Iterator[Package]:
    """Every locked package that belongs on this machine, with its licence."""
    installed: dict[str, Distribution] = {}
    for distribution in distributions():
        # The first on the path is the one that is imported.
        installed.setdefault(normal(distribution.metadata["Name"]), distribution)
    service = serving()
    training = pins("requirements.lock")
    for name, version in sorted(pins("requirements-dev.lock", "requirements-testdata.txt").items()):
        used_by = "service" if name in service else "training" if name in training else "tests"
        found = installed.get(name)
        right = found is not None and found.version == version
        yield Package(name, version, licence(found) if found and right else "", used_by)


def licence(package: Distribution) -> str:
    """The licence as an SPDX expression where the package gives one.

    Its own expression counts first, then its classifiers (all of them), then the free text. When
    it names none, the hash of its licence file: a waiver of that hash ends when the text changes.
    """
    metadata = package.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return expression
    parts = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier") or []
             if c.startswith("License :: OSI Approved :: ")]  # fmt: skip
    if parts:
        return " AND ".join(sorted(CLASSIFIERS.get(part, part) for part in parts))
    text = (metadata.get("License") or "").strip()
    if text and len(text) <= LONGEST_EXPRESSION and "\n" not in text:
        return TEXTS.get(text, text)
    files = [f for f in package.files or [] if re.search(r"licen[cs]e|copying", f.name, re.I)]
    digest = hashlib.sha256(b"".join(f.read_binary() for f in sorted(files))).hexdigest()
    return f"unnamed, file {digest[:12]}"


def findings(packages: Sequence[Package], allowed: frozenset[str]) -> Iterator[Finding]:
    """What is not on the list. ``where`` says who uses it: a waiver for tests covers no service.

    Examples
    --------
    >>> copyleft = Package("readline", "8", "GPL-3.0-or-later", "service")
    >>> [f.where for f in findings([copyleft], frozenset({"MIT"}))]
    ['readline (service)']
    """
    for package in packages:
        where = f"{package.name} ({package.used_by})"
        if not package.licence:
            yield Finding("licences", "not installed", where, f"{package.version} is locked")
        elif not is_allowed(package.licence, allowed):
            detail = "not among the allowed licences of tools/waivers.toml"
            yield Finding("licences", package.licence, where, detail)


def is_allowed(expression: str, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression can be met with these licences alone.

    ``OR`` gives a choice, ``AND`` binds tighter and asks for both; a licence ``WITH`` an exception
    is one licence and must be listed as written. What cannot be read is not allowed.

    References
    ----------
    SPDX specification, annex "SPDX license expressions".

    Examples
    --------
    >>> ours = frozenset({"MIT", "Apache-2.0"})
    >>> is_allowed("GPL-2.0-only OR MIT", ours), is_allowed("GPL-2.0-only AND MIT", ours)
    (True, False)
    >>> is_allowed("MIT AND (GPL-2.0-only OR Apache-2.0)", ours)
    True
    """
    if expression in allowed:
        return True
    inner = re.sub(
        r"\(([^()]*)\)",
        lambda group: "+" if is_allowed(group[1].strip(), allowed) else "-",
        expression,
    )
    if inner != expression:
        return is_allowed(inner, allowed | {"+"})
    for operator, decide in ((r"\s+OR\s+", any), (r"\s+AND\s+", all)):
        parts = re.split(operator, expression)
        if len(parts) > 1:
            return decide(is_allowed(part, allowed) for part in parts)
    return False


def table(packages: Sequence[Package]) -> str:
    """The licences as a Markdown page, counted first."""
    counts: Mapping[str, int] = {
        licence: sum(package.licence == licence for package in packages)
        for licence in sorted({package.licence for package in packages})
    }
    lines = ["# Licences of the locked packages", "", "Written by `make licences`.", ""]
    lines += ["| licence | packages |", "| --- | ---: |"]
    lines += [f"| {name or 'not installed'} | {count} |" for name, count in counts.items()]
    lines += ["", "| package | version | licence | used by |", "| --- | --- | --- | --- |"]
    lines += [f"| {p.name} | {p.version} | {p.licence} | {p.used_by} |" for p in packages]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
