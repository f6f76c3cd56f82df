"""What a scan found, and which findings someone reviewed and let stand, until a day.

Every exception of every scan stands in tools/waivers.toml. A waiver names one finding exactly,
says why it stands, and ends within a year: after that day it fails the scan until it is reviewed
again. A waiver whose finding is gone fails the scan too.
"""

from __future__ import annotations

import datetime
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAIVERS = ROOT / "tools" / "waivers.toml"
LONGEST = datetime.timedelta(days=366)
SHORTEST_REASON = 30
FIELDS = {"scan", "rule", "where", "reason", "since", "until"}


class WaiverError(Exception):
    """A waiver that cannot be taken as written."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that a scan found.

    Attributes
    ----------
    scan : the scan, as ``secrets``
    rule : what was broken, in the tool's own name
    where : the file, package or image part, exact enough that two findings differ
    detail : one sentence for whoever reads it
    """

    scan: str
    rule: str
    where: str
    detail: str = ""


@dataclass(frozen=True)
class Waiver:
    """A finding that was reviewed and stands until a day."""

    scan: str
    rule: str
    where: str
    reason: str
    since: datetime.date
    until: datetime.date

    def covers(self, finding: Finding) -> bool:
        """Whether this is the finding that was reviewed."""
        return (self.scan, self.rule, self.where) == (finding.scan, finding.rule, finding.where)


def read_waivers(scan: str, path: Path = WAIVERS) -> list[Waiver]:
    """The waivers of one scan.

    Raises
    ------
    WaiverError : a waiver lacks a field, has one too many, gives no reason worth the name, or
        lasts longer than a year.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("waiver", [])
    return [waiver for entry in entries if (waiver := _checked(entry)).scan == scan]


def _checked(entry: dict[str, object]) -> Waiver:
    told = f"waiver of {entry.get('rule')} at {entry.get('where')}"
    if set(entry) != FIELDS:
        raise WaiverError(f"{told}: expected exactly {', '.join(sorted(FIELDS))}")
    waiver = Waiver(**entry)  # type: ignore[arg-type]
    if len(waiver.reason.strip()) < SHORTEST_REASON:
        raise WaiverError(f"{told}: its reason is too short to be one")
    if not isinstance(waiver.since, datetime.date) or not isinstance(waiver.until, datetime.date):
        raise WaiverError(f"{told}: since and until are dates, as 2026-11-25")
    if not datetime.timedelta(0) < waiver.until - waiver.since <= LONGEST:
        raise WaiverError(f"{told}: it must end after it begins and within a year")
    return waiver


def faults(
    findings: Iterable[Finding], waivers: Sequence[Waiver], *, today: datetime.date
) -> list[str]:
    """One sentence for each open finding, expired waiver and waiver without a finding.

    Examples
    --------
    >>> day = datetime.date
    >>> found = Finding("dockerfile", "DL3008", "Dockerfile: RUN apt-get", "pin versions")
    >>> kept = Waiver("dockerfile", "DL3008", found.where, "...", day(2026, 1, 1), day(2026, 2, 1))
    >>> faults([found], [kept], today=day(2026, 1, 15))
    []
    >>> faults([found], [kept], today=day(2026, 2, 2))
    ['DL3008 at Dockerfile: RUN apt-get: its waiver ended on 2026-02-01']
    >>> faults([], [kept], today=day(2026, 1, 15))
    ['DL3008 at Dockerfile: RUN apt-get: waived but no longer found; remove the waiver']
    """
    found = sorted(set(findings))
    told = []
    for finding in found:
        where = f"{finding.rule} at {finding.where}"
        ends = [waiver.until for waiver in waivers if waiver.covers(finding)]
        if not ends:
            told.append(f"{where}: {finding.detail}")
        elif max(ends) < today:
            told.append(f"{where}: its waiver ended on {max(ends)}")
    for waiver in waivers:
        if not any(waiver.covers(finding) for finding in found):
            told.append(f"{waiver.rule} at {waiver.where}: waived but no longer found; "
                        "remove the waiver")  # fmt: skip
    return told


def verdict(scan: str, findings: Iterable[Finding], *, looked_at: str) -> int:
    """Print what stands and what is waived; the exit code of the scan.

    Parameters
    ----------
    scan : the scan's name in tools/waivers.toml
    findings : all that was found
    looked_at : what the tool says it looked at, the proof that it did
    """
    findings = list(findings)
    try:
        waivers = read_waivers(scan)
    except WaiverError as error:
        print(f"{scan}: {error}", file=sys.stderr)
        return 1
    told = faults(findings, waivers, today=datetime.datetime.now(tz=datetime.UTC).date())
    for line in told:
        print(f"{scan}: {line}", file=sys.stderr)
    print(f"{scan}: {looked_at}; {len(set(findings))} findings, {len(waivers)} waivers, "
          f"{len(told)} to mend")  # fmt: skip
    return 1 if told else 0
