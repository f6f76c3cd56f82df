"""THE declaration: 13 attributes, the hospital and the outcome. Everything else derives from it.

Home coding is UCI's. Codes, units and quirks come from the donors' ``heart-disease.names`` and
were counted on the four files themselves. Kaggle's recoding was proven on 303 of 303 rows joined
by their uncoded cells; its published codebook is wrong for cp, restecg, slope and thal.

Standard library only: the service, the command line and the docs all import this module.

References
----------
.. [1] Janosi A, Steinbrunn W, Pfisterer M, Detrano R. Heart Disease. UCI Machine Learning
   Repository, 1989. doi:10.24432/C52P4X (CC BY 4.0)
.. [2] Detrano R et al. International application of a new probability algorithm for the
   diagnosis of coronary artery disease. Am J Cardiol 1989;64:304-310.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

VERSION = "1.0"
SOURCE = "UCI heart-disease.names, doi:10.24432/C52P4X"

Kind = Literal["number", "code"]
PanelName = Literal["bedside", "exercise", "imaging"]

MISSING_TEXT = "?"
"""What UCI writes for a missing cell."""
MISSING_TEXTS = ("", MISSING_TEXT, "na", "n/a", "nan", "null", "none")
"""Texts that mean missing in a file, compared in lower case."""
MISSING_NUMBER = -9.0
"""The missing code of UCI's raw 76-column files and of ``reprocessed.hungarian.data``."""


@dataclass(frozen=True)
class Code:
    """One code of a coded attribute.

    Parameters
    ----------
    value : UCI's number.
    name : the word a request may send instead; unambiguous in every coding.
    kaggle : the number of the popular Kaggle ``heart.csv`` for the same thing.
    words : other spellings seen in worded files, lower case.
    """

    value: int
    name: str
    kaggle: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class ZeroRule:
    """At these sites a zero was written for a missing value.

    Parameters
    ----------
    counts : site to the number of zeros there, counted in UCI's files.
    evidence : why a zero cannot be a measurement.
    """

    counts: dict[str, int]
    evidence: str


@dataclass(frozen=True)
class Attribute:
    """One of the 13 inputs.

    Parameters
    ----------
    name : the source's name, the only one used in code, files and requests.
    label : words for people.
    unit : unit of measurement, empty for codes.
    plausible : lowest and highest credible value, both included; None for codes.
    codes : the codes and their meaning; empty for numbers.
    panel : the first panel that uses the attribute.
    imputed : whether a panel may be used when the value is missing (it is imputed inside the
        fitted pipeline); an attribute that is not imputed decides which panel can answer.
    zero : where zero means missing.
    direction : 1 where a higher value can only make disease more probable, -1 where it can only
        make it less probable, by clinical knowledge; 0 where neither is claimed.
    description : one sentence, with what the source says.
    """

    name: str
    label: str
    unit: str
    panel: PanelName
    description: str
    plausible: tuple[float, float] | None = None
    codes: tuple[Code, ...] = ()
    imputed: bool = False
    direction: Literal[-1, 0, 1] = 0
    zero: ZeroRule | None = None
    kaggle_missing: int | None = None
    aliases: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """``code`` for coded attributes, ``number`` for measurements."""
        return "code" if self.codes else "number"

    @property
    def code_values(self) -> tuple[int, ...]:
        """UCI's codes in order; empty for numbers."""
        return tuple(code.value for code in self.codes)

    @property
    def expected(self) -> str:
        """What a right value is, in words."""
        if self.plausible:
            low, high = self.plausible
            return f"a number from {low:g} to {high:g}{' ' + self.unit if self.unit else ''}"
        if all(code.name == str(code.value) for code in self.codes):
            return "one of " + ", ".join(str(code.value) for code in self.codes)
        return "one of " + ", ".join(f"{code.value} ({code.name})" for code in self.codes)


_NO_YES = (
    Code(0, "no", 0, ("false", "n", "f")),
    Code(1, "yes", 1, ("true", "y", "t")),
)

ATTRIBUTES: tuple[Attribute, ...] = (
    Attribute(
        "age",
        "Age",
        "years",
        "bedside",
        "Age at the examination.",
        plausible=(18, 100),
        direction=1,
    ),
    Attribute(
        "sex",
        "Sex",
        "",
        "bedside",
        "Sex as recorded by the hospital.",
        codes=(Code(0, "female", 0, ("f", "woman")), Code(1, "male", 1, ("m", "man"))),
        direction=1,
        aliases=("gender",),
    ),
    Attribute(
        "cp",
        "Chest pain type",
        "",
        "bedside",
        "Type of chest pain; asymptomatic means no chest pain.",
        codes=(
            Code(1, "typical angina", 3, ("ta", "typical")),
            Code(2, "atypical angina", 1, ("ata", "atypical")),
            Code(3, "non-anginal pain", 2, ("nap", "non-anginal", "nonanginal", "nonang")),
            Code(4, "asymptomatic", 0, ("asy", "asympt", "asymp")),
        ),
        aliases=("chest pain type", "chestpaintype", "chest_pain_type", "chestpain"),
    ),
    Attribute(
        "trestbps",
        "Resting blood pressure",
        "mm Hg",
        "bedside",
        "Systolic resting blood pressure on admission.",
        plausible=(60, 250),
        imputed=True,
        zero=ZeroRule({"va": 1}, "no living patient has 0 mm Hg"),
        aliases=(
            "restingbp",
            "resting bp s",
            "resting_bp",
            "bp",
            "resting_blood_pressure",
            "trtbps",
        ),
    ),
    Attribute(
        "chol",
        "Serum cholesterol",
        "mg/dL",
        "bedside",
        "Total serum cholesterol.",
        plausible=(80, 650),
        imputed=True,
        direction=1,
        zero=ZeroRule(
            {"switzerland": 123, "va": 49},
            "every Swiss value is 0; the lowest real value of the 920 patients is 85 mg/dL",
        ),
        aliases=("cholesterol", "cholestoral", "serumcholestrol", "serum_cholesterol"),
    ),
    Attribute(
        "fbs",
        "Fasting blood sugar above 120 mg/dL",
        "",
        "bedside",
        "Whether fasting blood sugar exceeds 120 mg/dL.",
        codes=(
            Code(0, "no", 0, (*_NO_YES[0].words, "lower than 120 mg/ml")),
            Code(1, "yes", 1, (*_NO_YES[1].words, "greater than 120 mg/ml")),
        ),
        imputed=True,
        aliases=(
            "fastingbs",
            "fasting blood sugar",
            "fasting_blood_sugar",
            "fbs over 120",
            "fastingbloodsugar",
        ),
    ),
    Attribute(
        "restecg",
        "Resting ECG",
        "",
        "bedside",
        "Resting electrocardiogram; hypertrophy by Estes' criteria.",
        codes=(
            Code(0, "normal", 1),
            Code(1, "st-t abnormality", 2, ("st", "st-t wave abnormality", "stt")),
            Code(2, "lv hypertrophy", 0, ("lvh", "left ventricular hypertrophy")),
        ),
        imputed=True,
        aliases=(
            "restingecg",
            "resting ecg",
            "rest_ecg",
            "resting_ecg",
            "ekg results",
            "restingrelectro",
        ),
    ),
    Attribute(
        "thalach",
        "Maximum heart rate",
        "beats/min",
        "exercise",
        "Highest heart rate reached in the exercise test.",
        plausible=(40, 230),
        direction=-1,
        aliases=(
            "maxhr",
            "max heart rate",
            "max_heart_rate",
            "max hr",
            "max_hr",
            "thalch",
            "thalachh",
            "maxheartrate",
        ),
    ),
    Attribute(
        "exang",
        "Exercise-induced angina",
        "",
        "exercise",
        "Whether the exercise test brought on angina.",
        codes=_NO_YES,
        direction=1,
        aliases=(
            "exerciseangina",
            "exercise angina",
            "exercise_angina",
            "exercise_induced_angina",
            "exerciseangia",
            "exng",
        ),
    ),
    Attribute(
        "oldpeak",
        "ST depression",
        "mm",
        "exercise",
        "ST depression by exercise relative to rest; below 0 is elevation (11 Swiss rows, 1 VA).",
        plausible=(-5, 10),
        direction=1,
        aliases=("st depression", "st_depression"),
    ),
    Attribute(
        "slope",
        "ST slope",
        "",
        "imaging",
        "Slope of the ST segment at peak exercise.",
        codes=(
            Code(1, "upsloping", 2, ("up",)),
            Code(2, "flat", 1),
            Code(3, "downsloping", 0, ("down",)),
        ),
        aliases=("st_slope", "st slope", "slope of st", "slp"),
    ),
    Attribute(
        "ca",
        "Major vessels coloured",
        "",
        "imaging",
        "Number of major vessels (0-3) coloured by fluoroscopy.",
        codes=tuple(
            Code(n, str(n), n, (word,)) for n, word in enumerate(("zero", "one", "two", "three"))
        ),
        direction=1,
        kaggle_missing=4,
        aliases=(
            "number of vessels fluro",
            "num_major_vessels",
            "major vessels",
            "noofmajorvessels",
            "vessels_colored_by_flourosopy",
            "caa",
        ),
    ),
    Attribute(
        "thal",
        "Thallium scan",
        "",
        "imaging",
        "Thallium scintigraphy; not the blood disease thalassaemia.",
        codes=(
            Code(3, "normal", 2),
            Code(6, "fixed defect", 1, ("fixed",)),
            Code(7, "reversible defect", 3, ("reversable defect", "reversible", "reversable")),
        ),
        direction=1,
        kaggle_missing=0,
        aliases=("thallium", "thalassemia", "thall"),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """The reference standard: coronary angiography.

    Parameters
    ----------
    name : the source's column, 0-4 (0-1 at Hungary, whose grades were merged upstream).
    label : words for people.
    positive, negative : the two labels of an answer.
    highest : the highest grade.
    aliases : names of the column in other files; under ``kaggle_aliases`` the Kaggle recoding
        writes 1 for a healthy patient.
    positive_words, negative_words : spellings in worded files, lower case.
    markers : attributes that rise with disease at every hospital; if they fall, a file's label
        is inverted.
    """

    name: str = "num"
    label: str = "Angiographic diagnosis"
    positive: str = "disease"
    negative: str = "no disease"
    highest: int = 4
    description: str = (
        "0: no major vessel narrowed by 50 % or more; 1-4: at least one is, growing severity. "
        "The model answers num > 0: a diagnosis at the time of the examination, not a future event."
    )
    aliases: tuple[str, ...] = (
        "target",
        "heartdisease",
        "heart disease",
        "heart_disease",
        "class",
        "output",
    )
    kaggle_aliases: tuple[str, ...] = ("target", "output")
    positive_words: tuple[str, ...] = ("presence", "present", "yes", "true", "positive")
    negative_words: tuple[str, ...] = ("absence", "absent", "no", "false", "negative")
    markers: tuple[str, ...] = ("exang", "oldpeak", "ca")


@dataclass(frozen=True)
class Site:
    """One of the four hospitals.

    Parameters
    ----------
    name : value of the ``site`` column.
    label : words for people.
    file : UCI's file.
    sha256 : of UCI's bytes.
    patients : rows in that file, counted.
    """

    name: str
    label: str
    file: str
    sha256: str
    patients: int
    aliases: tuple[str, ...] = ()


SITES: tuple[Site, ...] = (
    Site(
        "cleveland",
        "Cleveland Clinic Foundation",
        "processed.cleveland.data",
        "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
        303,
    ),
    Site(
        "hungary",
        "Hungarian Institute of Cardiology, Budapest",
        "processed.hungarian.data",
        "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
        294,
        ("hungarian",),
    ),
    Site(
        "switzerland",
        "University Hospitals Zurich and Basel",
        "processed.switzerland.data",
        "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
        123,
    ),
    Site(
        "va",
        "V.A. Medical Center, Long Beach",
        "processed.va.data",
        "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
        200,
        ("va long beach", "long beach", "long-beach-va", "long beach va"),
    ),
)

OUTCOME = Outcome()
SITE_COLUMN = "site"
SITE_ALIASES: tuple[str, ...] = ("dataset", "hospital", "centre", "center")
NAMES: tuple[str, ...] = tuple(attribute.name for attribute in ATTRIBUTES)
HEADER: tuple[str, ...] = (*NAMES, OUTCOME.name, SITE_COLUMN)
BY_NAME: dict[str, Attribute] = {attribute.name: attribute for attribute in ATTRIBUTES}
SITE_NAMES: tuple[str, ...] = tuple(site.name for site in SITES)


@dataclass(frozen=True)
class Panel:
    """A sub-model by available inputs, in the order of care.

    Parameters
    ----------
    name : bedside, exercise or imaging.
    label : words for people.
    """

    name: PanelName
    label: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Attributes the panel uses, in contract order."""
        reached = PANEL_NAMES[: PANEL_NAMES.index(self.name) + 1]
        return tuple(a.name for a in ATTRIBUTES if a.panel in reached)

    @property
    def required(self) -> tuple[str, ...]:
        """Attributes that must be known for the panel to answer."""
        return tuple(name for name in self.inputs if not BY_NAME[name].imputed)

    @property
    def columns(self) -> tuple[int, ...]:
        """Places of the inputs among the 13 attributes."""
        return tuple(NAMES.index(name) for name in self.inputs)


PANELS: tuple[Panel, ...] = (
    Panel("bedside", "History, blood pressure, blood tests and resting ECG"),
    Panel("exercise", "Bedside and exercise test"),
    Panel("imaging", "Exercise and ST slope, fluoroscopy, thallium scan"),
)
PANEL_NAMES: tuple[PanelName, ...] = tuple(panel.name for panel in PANELS)
PANEL_BY_NAME: dict[str, Panel] = {panel.name: panel for panel in PANELS}


def fingerprint() -> str:
    """The contract's identity: names, order, units, codes and missing codes, nothing else.

    A mended label or description leaves it unchanged, so it never stops a service.

    Examples
    --------
    >>> len(fingerprint())
    64
    """
    facts = {
        "attributes": [
            [
                a.name,
                a.unit,
                list(a.code_values),
                sorted(a.zero.counts) if a.zero else [],
            ]
            for a in ATTRIBUTES
        ],
        "missing": [*MISSING_TEXTS, MISSING_NUMBER],
        "outcome": [OUTCOME.name, OUTCOME.highest],
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()
