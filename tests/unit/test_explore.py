"""The exploration: statistics against outside oracles, tables, page, and small or empty data."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api
from statsmodels.stats.proportion import proportion_confint

from heartdx.codings import Finding
from heartdx.contract import ATTRIBUTES, BY_NAME, HEADER, NAMES, OUTCOME, SITE_NAMES, SITES
from heartdx.embedded import site_bytes
from heartdx.errors import UnavailableError
from heartdx.explore import explore, tables
from heartdx.explore.statistics import (
    associations,
    correlation_ratio,
    cramers_v,
    difference_of_codes,
    difference_of_numbers,
    pearson,
)
from heartdx.figures import style
from heartdx.performance.intervals import wilson
from heartdx.records import cell

WRITTEN = {
    "class_balance.png",
    "histograms_by_outcome.png",
    "associations.png",
    "missing_by_site.png",
    "outcome_by_site.png",
    "data_summary.csv",
    "table1.csv",
}
MOST_BYTES = 1_500_000


@dataclass(frozen=True)
class Data:
    """What ``explore`` reads of ``checks.Loaded``."""

    frame: pd.DataFrame
    findings: tuple[Finding, ...] = ()
    coding: str = "uci"
    sha256: str = "ab" * 32
    name: str = "some/folder/heart.csv"


@pytest.fixture(scope="module")
def hospitals() -> pd.DataFrame:
    rows = []
    for site in SITES:
        for line in site_bytes(site).decode().split():
            values = [cell(text) for text in line.split(",")]
            for place, attribute in enumerate(ATTRIBUTES):
                zero_is_missing = attribute.zero and site.name in attribute.zero.counts
                if zero_is_missing and values[place] == 0:
                    values[place] = None
            rows.append([*(math.nan if v is None else v for v in values), site.name])
    return pd.DataFrame(rows, columns=list(HEADER))


@pytest.fixture(scope="module")
def written(hospitals, tmp_path_factory):
    finding = Finding("zeros", "chol: <zeros> & more", 123, "chol", "warning")
    data = Data(hospitals, (finding,))
    return explore(data, out=tmp_path_factory.mktemp("reports") / "figures")


@pytest.fixture
def random():
    return np.random.default_rng(20240607)


# -- statistics ---------------------------------------------------------------------------------


def test_cramers_v_is_bergsmas_correction_of_scipys_chi_square(random):
    a, b = random.integers(0, 4, 300).astype(float), random.integers(0, 3, 300).astype(float)
    b[:80] = np.minimum(a[:80], 2)
    table = pd.crosstab(a, b).to_numpy()
    n, (r, k) = table.sum(), table.shape
    phi2 = scipy.stats.chi2_contingency(table, correction=False).statistic / n
    phi2 = max(0, phi2 - (r - 1) * (k - 1) / (n - 1))
    smaller = min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1))

    value = cramers_v(a, b)

    assert value == pytest.approx(math.sqrt(phi2 / (smaller - 1)), rel=1e-12)


def test_cramers_v_nears_the_uncorrected_one_as_patients_grow(random):
    a = random.integers(0, 3, 200_000).astype(float)
    b = np.where(random.random(200_000) < 0.4, a, random.integers(0, 3, 200_000)).astype(float)
    plain = scipy.stats.contingency.association(pd.crosstab(a, b).to_numpy(), method="cramer")

    value = cramers_v(a, b)

    assert value == pytest.approx(plain, abs=1e-4)


def test_cramers_v_is_1_for_a_renaming_and_0_for_independence():
    a = np.repeat([1.0, 2, 3], 20)

    assert cramers_v(a, a * 7) == pytest.approx(1)
    assert cramers_v(np.tile([0.0, 1], 30), np.repeat([3.0, 6, 7], 20)) == 0


def test_the_correlation_ratio_squared_is_the_r_squared_of_group_means(random):
    codes, x = random.integers(0, 4, 150).astype(float), random.normal(size=150)
    x += codes
    model = statsmodels.api.OLS(x, pd.get_dummies(codes).to_numpy(dtype=float)).fit()

    assert correlation_ratio(codes, x) ** 2 == pytest.approx(model.rsquared, rel=1e-10)


def test_the_correlation_ratio_agrees_with_scipys_analysis_of_variance(random):
    codes, x = np.repeat([1.0, 2, 3], [20, 30, 25]), random.normal(size=75)
    f = scipy.stats.f_oneway(*(x[codes == code] for code in (1, 2, 3))).statistic

    assert correlation_ratio(codes, x) ** 2 == pytest.approx(2 * f / (2 * f + 72), rel=1e-10)


def test_wilsons_interval_is_statsmodels():
    for successes, n in ((0, 8), (8, 8), (115, 123), (106, 294), (1, 3)):
        oracle = proportion_confint(successes, n, method="wilson")

        assert wilson(successes, n) == pytest.approx(oracle, abs=1e-12)


def test_wilsons_interval_of_nobody_is_unknown():
    assert all(math.isnan(bound) for bound in wilson(0, 0))


def test_the_standardized_difference_of_two_codes_is_the_binary_formula():
    without, with_ = np.repeat([0.0, 1], [70, 30]), np.repeat([0.0, 1], [45, 55])
    binary = abs(0.55 - 0.30) / math.sqrt((0.55 * 0.45 + 0.30 * 0.70) / 2)

    assert difference_of_codes(without, with_) == pytest.approx(binary, rel=1e-12)


def test_the_standardized_difference_of_codes_does_not_depend_on_the_code_left_out():
    without, with_ = np.repeat([1.0, 2, 3], [20, 30, 50]), np.repeat([1.0, 2, 3], [40, 35, 25])
    swap = {1.0: 3.0, 2.0: 1.0, 3.0: 2.0}
    renamed = [np.array([swap[code] for code in group]) for group in (without, with_)]

    assert difference_of_codes(without, with_) == pytest.approx(difference_of_codes(*renamed))


def test_the_standardized_difference_of_numbers_is_cohens_d_for_equal_groups(random):
    a, b = random.normal(0, 1, 40), random.normal(0.5, 2, 40)
    # with equal groups, t = d * sqrt(n / 2)
    t = scipy.stats.ttest_ind(b, a).statistic

    assert difference_of_numbers(a, b) == pytest.approx(abs(t) * math.sqrt(2 / 40), rel=1e-10)


@pytest.mark.parametrize(
    "statistic", [pearson, cramers_v, correlation_ratio, difference_of_codes, difference_of_numbers]
)
@pytest.mark.parametrize(
    ("first", "second"),
    [([], []), ([1.0], [2.0]), ([math.nan] * 3, [1.0, 2, 3]), ([1.0, 1, 1], [1.0, 1, 1])],
)
def test_what_cannot_be_computed_is_unknown_and_never_0(statistic, first, second):
    assert math.isnan(statistic(np.array(first), np.array(second)))


def test_each_pair_is_measured_on_the_patients_who_have_both(random):
    frame = pd.DataFrame({"x": random.normal(size=50), "y": random.normal(size=50)})
    frame["code"] = random.integers(0, 2, 50).astype(float)
    frame.loc[:9, "x"] = math.nan
    frame.loc[5:19, "code"] = math.nan
    both = frame[["x", "y"]].dropna()

    pairs = associations(frame, numbers=("x", "y"), codes=("code",))

    assert pairs.counts.loc["x", "code"] == 30
    assert pairs.values.loc["x", "y"] == pytest.approx(both.corr().iloc[0, 1])
    spearman = scipy.stats.spearmanr(both["x"], both["y"]).statistic
    assert pairs.ranks.loc["x", "y"] == pytest.approx(spearman)
    assert pairs.ranks.loc["x"].isna()["code"]


# -- tables -------------------------------------------------------------------------------------


def test_all_920_patients_are_counted_by_hospital_and_outcome(hospitals):
    outcomes = tables.outcome_by_site(tables.cohort(hospitals))

    assert list(outcomes.index) == list(SITE_NAMES)
    assert outcomes["patients"].tolist() == [site.patients for site in SITES]
    assert outcomes["diseased"].tolist() == [139, 106, 115, 149]


def test_the_summary_has_one_row_per_attribute_in_contract_order(written):
    with (written.files[0].parent / "data_summary.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))

    assert [row["attribute"] for row in rows] == list(NAMES)
    by_name = {row["attribute"]: row for row in rows}
    assert by_name["chol"]["missing_switzerland"] == "123"
    assert by_name["chol"]["missing_percent"] == "22.0"
    assert by_name["ca"]["missing"] == "611"
    assert by_name["cp"]["mean"] == "", "a code has no mean"


def test_table_1_has_every_group_and_the_patients_of_each(hospitals):
    table = tables.table1(tables.cohort(hospitals))

    first = table.iloc[0]
    assert first["overall"] == "920"
    assert first[OUTCOME.negative] == "411"
    assert first[OUTCOME.positive] == "509"
    assert first["switzerland"] == "123"
    assert list(table["attribute"].unique()) == ["", OUTCOME.name, *NAMES]


def test_table_1_says_numbers_and_codes_as_pandas_counts_them(hospitals):
    table = tables.table1(tables.cohort(hospitals)).set_index(["attribute", "statistic"])
    va = hospitals[hospitals["site"] == "va"]
    age = va["age"]

    assert table.loc[("age", "mean (SD)"), "va"] == f"{age.mean():.1f} ({age.std():.1f})"
    men = int((va["sex"] == 1).sum())
    assert table.loc[("sex", "male, n (%)"), "va"] == f"{men} ({100 * men / len(va):.0f} %)"
    assert table.loc[("chol", "mean (SD)"), "switzerland"] == "–"
    assert table.loc[("chol", "missing, n (%)"), "switzerland"] == "123 (100 %)"


def test_a_pooled_difference_stands_beside_the_hospitals_own(hospitals):
    table = tables.table1(tables.cohort(hospitals)).set_index(["attribute", "statistic"])

    row = table.loc[("age", "mean (SD)")]

    assert row["smd"] == "0.59"
    assert row["smd_within_hospitals"] == "0.08 to 0.46"


def test_a_percentage_never_rounds_some_to_none_or_nearly_all_to_all():
    assert tables.percent(1 / 920) == "<1 %"
    assert tables.percent(919 / 920) == ">99 %"
    assert tables.percent(math.nan) == "–"


def test_a_difference_known_in_one_hospital_only_names_it(hospitals):
    table = tables.table1(tables.cohort(hospitals)).set_index("attribute")

    assert table.loc["ca"].iloc[0]["smd_within_hospitals"] == "1.12 (Cleveland)"


def test_an_association_of_three_patients_is_not_told(hospitals):
    pairs = tables.all_associations(tables.cohort(hospitals.head(3)))

    assert pairs.counts.loc["age", "sex"] == 3
    assert pairs.values.isna().all(axis=None)
    assert pairs.ranks.isna().all(axis=None)


# -- the page -----------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Collects what a browser would fetch, and the ids and targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.images_without_words = 0

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.fetched += [given[name] for name in ("src", "srcset", "data") if given.get(name)]
        if tag in ("link", "script", "iframe", "object"):
            self.fetched.append(tag)
        if tag == "a":
            self.targets.append(given["href"])
        if tag == "img" and not given.get("alt"):
            self.images_without_words += 1
        if given.get("id"):
            self.ids.add(given["id"])


def _page(written) -> tuple[str, _Page]:
    text = written.html.read_text(encoding="utf-8")
    parser = _Page()
    parser.feed(text)
    return text, parser


def _edge_is_white(path: Path) -> bool:
    """Whether nothing is cut: a cut word or mark leaves ink on the outermost pixels."""
    pixels = matplotlib.image.imread(path)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return bool((edge == 1).all())


def test_every_file_is_written_and_the_page_lies_beside_the_folder(written):
    folder = written.files[0].parent

    assert {path.name for path in written.files} == WRITTEN
    assert {path.name for path in folder.iterdir()} == WRITTEN
    assert written.html == folder.parent / "eda.html"


def test_nothing_is_cut_at_the_edge_of_a_picture(written):
    for path in written.files:
        if path.suffix == ".png":
            assert _edge_is_white(path), path.name


def test_the_page_needs_no_network_and_stays_small(written):
    text, parsed = _page(written)

    assert parsed.fetched
    assert all(source.startswith("data:image/png;base64,") for source in parsed.fetched)
    assert not re.search(r"https?://|//cdn|url\(|@import", text)
    assert len(text.encode()) <= MOST_BYTES


def test_the_page_has_a_title_contents_that_lead_somewhere_and_words_for_each_picture(written):
    text, parsed = _page(written)

    assert re.search(r"<title>[^<]{10,}</title>", text)
    assert parsed.targets
    assert {target.removeprefix("#") for target in parsed.targets} == parsed.ids
    assert parsed.images_without_words == 0


def test_the_page_says_who_was_examined_what_was_found_and_where_it_is_from(written):
    text, _ = _page(written)

    assert "Every patient here was sent to coronary angiography" in text
    assert "920 patients from 4 hospitals; 509 of 920 with a known diagnosis (55 %)" in text
    assert "Hungary records num as 0 or 1 only" in text
    assert "at Hungary, 17 % of the patients without ST slope (slope) have disease, 70 %" in text
    assert "chol: &lt;zeros&gt; &amp; more" in text
    assert "ab" * 32 in text
    assert "doi:10.24432/C52P4X" in text


def test_the_page_names_no_folder_and_holds_no_patients_row(written, hospitals):
    text, _ = _page(written)
    words = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)

    assert "some/folder" not in words
    assert str(written.html.parent) not in words
    rows = {",".join(f"{v:g}" for v in row) for row in hospitals[list(NAMES)].to_numpy()[:, :6]}
    assert not any(row in words for row in rows)


def test_the_same_data_give_the_same_bytes(written, hospitals, tmp_path):
    finding = Finding("zeros", "chol: <zeros> & more", 123, "chol", "warning")

    again = explore(Data(hospitals, (finding,)), out=tmp_path / "figures")

    for first, second in zip(written.files, again.files, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    assert written.html.read_bytes() == again.html.read_bytes()


def test_the_page_goes_where_it_is_told_and_the_steps_are_told(hospitals, tmp_path):
    steps: list[str] = []

    done = explore(
        Data(hospitals.head(30)),
        out=tmp_path / "pictures",
        html=tmp_path / "page.html",
        progress=steps.append,
    )

    assert done.html == tmp_path / "page.html"
    assert done.html.exists()
    assert steps == ["counting", "drawing", "writing"]


def test_a_place_that_cannot_be_written_is_said_in_one_sentence(hospitals, tmp_path):
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(UnavailableError, match="cannot be written"):
        explore(Data(hospitals.head(30)), out=tmp_path / "file" / "figures")


# -- small, empty and foreign data --------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(lambda f: f.head(3), id="three rows"),
        pytest.param(lambda f: f.head(1), id="one row"),
        pytest.param(lambda f: f.head(0), id="no row"),
        pytest.param(lambda f: f[f["site"] == "cleveland"], id="one hospital"),
        pytest.param(lambda f: f[f["site"].isin(["va", "switzerland"])], id="two hospitals"),
        pytest.param(lambda f: f[f["num"] == 0], id="nobody ill"),
        pytest.param(lambda f: f[f["num"] > 0], id="everybody ill"),
        pytest.param(lambda f: f.assign(ca=math.nan, age=math.nan), id="columns all missing"),
        pytest.param(lambda f: f.assign(**dict.fromkeys(NAMES, math.nan)), id="nothing known"),
        pytest.param(lambda f: f.assign(num=math.nan), id="no diagnosis known"),
        pytest.param(lambda f: f.assign(**{a: f[a].iloc[0] for a in NAMES}), id="all alike"),
        pytest.param(lambda f: f.assign(site="st <elsewhere>"), id="a foreign hospital"),
    ],
)
def test_any_part_of_the_data_can_be_explored(hospitals, tmp_path, chosen, monkeypatch):
    monkeypatch.setattr(style, "DPI", 40)  # coarse pictures: the subject is the data
    frame = chosen(hospitals)

    done = explore(Data(frame), out=tmp_path / "figures")

    assert {path.name for path in done.files} == WRITTEN
    assert done.patients == len(frame)
    text = done.html.read_text(encoding="utf-8")
    words = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"\bnan\b|NaN|<elsewhere>", words)
    for path in done.files:
        if path.suffix == ".png":
            assert _edge_is_white(path), path.name


def test_hospitals_stand_in_contract_order_then_others_by_name(hospitals):
    frame = pd.concat(
        [hospitals[hospitals["site"] == "va"].assign(site=name) for name in ("zoo", "va", "ames")]
        + [hospitals[hospitals["site"] == "cleveland"]]
    )

    assert tables.cohort(frame).sites == ("cleveland", "va", "ames", "zoo")


def test_nothing_in_the_exploration_restates_the_columns():
    folder = Path(tables.__file__).parent
    quoted = re.compile("|".join(rf"[\"']{name}[\"']" for name in BY_NAME))
    sources = [*folder.glob("*.py"), *(folder.parent / "figures").glob("*.py")]

    restated = {path.name: quoted.findall(path.read_text(encoding="utf-8")) for path in sources}

    assert not any(restated.values()), restated
