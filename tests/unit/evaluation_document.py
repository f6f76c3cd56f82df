"""A small made-up evaluation document in the schema: no patient, no model, every key there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

METRICS = {
    "auc": "Area under the ROC curve",
    "auc_within": "AUC inside hospitals (mean)",
    "pr_auc": "Average precision",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Positive predictive value",
    "recall": "Sensitivity, under its other name",
    "npv": "Negative predictive value",
    "f1": "F1",
    "log_loss": "Log loss (nats)",
    "brier": "Brier score",
    "calibration_slope": "Calibration slope (1 is right)",
    "calibration_in_the_large": "Calibration in the large (0 is right)",
    "ici": "Integrated calibration index",
    "o_e": "Observed over expected (1 is right)",
    "scaled_brier": "Scaled Brier score",
    "net_benefit": "Net benefit",
}
CENTRES = {
    "calibration_slope": 0.95,
    "calibration_in_the_large": 0.05,
    "o_e": 1.05,
    "log_loss": 0.42,
    "brier": 0.13,
    "ici": 0.03,
}
SITES = {
    "cleveland": (303, 139),
    "hungary": (294, 106),
    "switzerland": (123, 115),
    "va": (200, 149),
}
CANDIDATES = {
    "dummy": {"label": "Prevalence", "role": "baseline"},
    "logreg": {"label": "Logistic regression", "role": "eligible"},
    "forest": {"label": "Random forest, calibrated", "role": "eligible"},
    "spline": {"label": "Logistic regression with splines", "role": "comparator"},
    "procedure": {"label": "Choice inside each fold", "role": "procedure"},
}
STEPS = ("none", "intercept", "intercept_slope", "refit", "closed_test", "prevalence")
NOT_ESTIMABLE = {"value": None, "low": None, "high": None}


def document(kind: str = "full") -> dict[str, Any]:
    """The whole document; the numbers are random ones of a fixed seed."""
    made = _Numbers(np.random.default_rng(20))
    return {
        "schema": 1,
        "kind": kind,
        "heartdx_version": "9.8.7",
        "model": {"name": "heartdx", "version": "17", "digest": "sha256:0123abcd"},
        "summary": [
            "The model ranks a diseased patient above a healthy one.",
            "Ask locally first.",
        ],
        "not_estimable": ["Specificity in Switzerland: too few healthy patients."],
        "findings": ["Probabilities are too low at VA."],
        "methods": {
            "auc": {"says": "Mann and Whitney's statistic.", "source": "DeLong 1988, doi:10.2307/1"}
        },
        "metrics": dict(METRICS),
        "data": {
            "name": "heart.csv",
            "sha256": "ab" * 32,
            "coding": "uci",
            "patients": 920,
            "events": 509,
            "sites": {
                site: {"patients": n, "events": d, "women": n // 5, "age_median": 54.5}
                for site, (n, d) in SITES.items()
            },
            "findings": ["172 cholesterol values are 0 and count as missing."],
        },
        "plan": {
            "splits": 5,
            "repeats": 10,
            "seed": 42,
            "harm_ratio": 4.0,
            "threshold": 0.2,
            "bootstraps": 211,
            "draws": 212,
        },
        "candidates": {name: dict(facts) for name, facts in CANDIDATES.items()},
        "panels": {
            "bedside": _panel(made, "History, blood tests and resting ECG", ("age", "cp")),
            "exercise": _panel(made, "Bedside and exercise test", ("age", "cp", "oldpeak")),
        },
        "policy": _policy(made),
        "ladder": {site: _ladder(made, site) for site in SITES},
        "missing": _missing(made),
        "lottery": {
            "site": "cleveland",
            "draws": 200,
            "aucs": made.generator.normal(0.9, 0.03, 200).tolist(),
            "interval": made.fig(0.89),
            "low": 0.8414,
            "high": 0.9521,
            "seed_42": 0.9366,
        },
        "overlap": {"rows": 303, "of": 310, "message": "The model has met these patients."},
        "gates": [
            {"name": "auc_floor", "passed": True, "reason": "above 0.75", "figure": 0.8123},
            {"name": "calibration", "passed": False, "reason": "slope below 0.8", "figure": None},
        ],
    }


class _Numbers:
    """Estimates with their intervals, no two alike."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def fig(self, centre: float, spread: float = 0.06) -> dict[str, float]:
        value = centre + self.generator.uniform(-1, 1) * spread
        below, above = self.generator.uniform(0.5, 1, 2) * spread
        return {"value": value, "low": value - below, "high": value + above}

    def metrics(self, names: Mapping[str, str] | tuple[str, ...] = METRICS, spread: float = 0.06):
        return {name: self.fig(CENTRES.get(name, 0.78), spread) for name in names}

    def share(self) -> float:
        return float(self.generator.uniform(0.6, 0.95))


def _panel(made: _Numbers, label: str, inputs: tuple[str, ...]) -> dict[str, Any]:
    others = [name for name in CANDIDATES if name != "logreg"]
    return {
        "label": label,
        "inputs": list(inputs),
        "required": list(inputs[1:]),
        "used": list(inputs),
        "patients": 900,
        "events": 498,
        "sites": {site: n for site, (n, _) in SITES.items()},
        "chosen": "logreg",
        "reason": "Logistic regression is the simplest within one standard error.",
        "parameters": {"logreg": {"C": 0.37}, "forest": {"min_samples_leaf": 7}},
        "candidates": {
            name: {
                "metrics": made.metrics(),
                "within_sites": {site: made.share() for site in SITES},
                "difference": {
                    m: made.fig(0, 0.02) for m in ("auc", "brier", "log_loss") if name in others
                },
                "held_out": {site: made.metrics() for site in SITES},
            }
            for name in CANDIDATES
        },
        "operating_point": {
            "threshold": 0.2,
            "counts": {"tp": 451, "fp": 187, "fn": 47, "tn": 215},
            **{name: made.fig(0.8) for name in ("sensitivity", "specificity", "ppv", "npv")},
            "lr_positive": made.fig(2.1, 0.3),
            "lr_negative": made.fig(0.2, 0.05),
        },
        "calibration": {
            name: made.fig(0.5)
            for name in (
                "intercept",
                "slope",
                "in_the_large",
                "o_e",
                "ici",
                "e50",
                "e90",
                "emax",
                "brier",
                "scaled_brier",
                "log_loss",
                "auc_delong",
            )
        },
        "curves": {
            "roc": {name: _roc(made.share()) for name in CANDIDATES},
            "calibration": _calibration(made, 900),
            "decision": _decision(),
        },
        "pooled": _pooled(made),
        "sample_size": {
            "parameters": 19,
            "events_per_parameter": 21.16,
            "r2_cox_snell": 0.3718,
            "needed": 613,
            "criteria": {"shrinkage": 431, "optimism": 219, "prevalence": 613},
            "enough": True,
        },
        "stability": {
            "bootstraps": 211,
            "optimism": {
                "auc": {
                    "apparent": 0.9017,
                    "optimism": 0.0143,
                    "corrected": 0.8874,
                    "low": 0.8661,
                    "high": 0.9077,
                }
            },
            "instability": _instability(made),
        },
    }


def _policy(made: _Numbers) -> dict[str, Any]:
    few = {"patients": 9, "events": 2, "shown": False, "reason": "fewer than 10 diseased"}
    groups = [
        *(("sex", name, 400, 150) for name in ("women", "men")),
        *(("age", name, 300, 120) for name in ("under 50", "50 to 59", "60 and over")),
        *(("site", site, n, d) for site, (n, d) in SITES.items()),
        *(("sex × age", name, 120, 60) for name in ("women under 50", "men 60 and over")),
    ]
    names = (
        "auc",
        "calibration_in_the_large",
        "o_e",
        "sensitivity",
        "specificity",
        "net_benefit",
        "brier",
    )
    compared = ("auc", "sensitivity", "calibration_in_the_large")
    return {
        "patients": 915,
        "events": 505,
        "panels": {"bedside": 187, "exercise": 728},
        "metrics": made.metrics(),
        "within_sites": {site: made.share() for site in SITES},
        "held_out": {
            site: {
                "patients": n,
                "events": d,
                "prevalence": d / n,
                "panels": {"bedside": n // 3, "exercise": n - n // 3},
                "metrics": made.metrics(spread=0.06 if n > 200 else 0.2)
                | ({"calibration_slope": NOT_ESTIMABLE} if site == "switzerland" else {}),
            }
            for site, (n, d) in SITES.items()
        },
        "pooled": _pooled(made),
        "curves": {
            "held_out_calibration": {s: _calibration(made, n) for s, (n, _) in SITES.items()}
        },
        "groups": [
            {
                "by": by,
                "group": group,
                "patients": patients,
                "events": events,
                "shown": True,
                "reason": None,
                "metrics": made.metrics(names),
                "difference": {name: made.fig(0.01, 0.05) for name in compared},
                "p_value": {name: made.share() for name in compared},
                "p_adjusted": {name: made.share() for name in compared},
            }
            for by, group, patients, events in groups
        ]
        + [
            {"by": "sex × age", "group": "women 60 and over", **few}
            | {"metrics": {}, "difference": {}, "p_value": {}, "p_adjusted": {}}
        ],
        "single_hospital": {
            "trained_on": "cleveland",
            "held_out": {
                site: {"patients": n, "metrics": made.metrics(("auc", "brier"))}
                for site, (n, _) in SITES.items()
                if site != "cleveland"
            },
        },
    }


def _pooled(made: _Numbers) -> dict[str, Any]:
    return {
        name: {
            "mean": made.fig(centre),
            "prediction": {"low": centre - 0.21, "high": centre + 0.17},
            "tau": made.share(),
            "i_squared": 61.7,
            "hospitals": 4,
            "scale": scale,
        }
        for name, centre, scale in (
            ("auc", 0.78, "logit"),
            ("o_e", 1.05, "log"),
            ("calibration_slope", 0.9, "identity"),
        )
    }


def _ladder(made: _Numbers, site: str) -> dict[str, Any]:
    n, d = SITES[site]
    sizes = [30, 50, 100] + ([200] if n > 250 else [])
    return {
        "patients": n,
        "events": d,
        "gated": site != "switzerland",
        "sizes": sizes,
        "steps": {
            step: {m: [made.fig(0.16, 0.02) for _ in sizes] for m in ("brier", "log_loss")}
            for step in STEPS
        },
        "advantage": [made.fig(-0.01, 0.02) for _ in sizes],
        "picked": {step: [made.share() for _ in sizes] for step in ("none", "intercept", "refit")},
        "usable_from": 100 if site == "va" else None,
        "draws": 212,
    }


def _missing(made: _Numbers) -> dict[str, Any]:
    return {
        "by_site": {
            site: {name: {"missing": n // 3, "patients": n} for name in ("chol", "thal")}
            for site, (n, _) in SITES.items()
        },
        "panel_worth": [
            {"patients_of": "exercise", "panel": p, "auc": made.fig(0.85), "brier": made.fig(0.14)}
            for p in ("bedside", "exercise")
        ],
        "input_worth": [
            {
                "panel": panel,
                "attribute": name,
                "auc_loss": made.fig(0.02, 0.02),
                "log_loss_gain": made.fig(0.03, 0.02),
            }
            for panel, names in (("bedside", ("age", "cp")), ("exercise", ("age", "cp", "oldpeak")))
            for name in names
        ],
        "strategies": [
            {
                "name": name,
                "label": label,
                "held_out": {
                    site: {"auc": made.fig(0.8), "brier": made.fig(0.15, 0.02)} for site in SITES
                },
                "mean_auc": made.share(),
                "mean_brier": made.share(),
                "difference": made.fig(0.0, 0.01),
            }
            for name, label in (
                ("panels", "Panels, as shipped"),
                ("median", "Median of the training hospitals"),
                ("multiple", "Multiple imputation"),
            )
        ],
        "further_panels": [
            {
                "name": "no_chol",
                "inputs": ["age", "cp"],
                "patients": 857,
                "kept": False,
                "reason": "no better than bedside",
                "held_out": {
                    site: {"auc": made.fig(0.8), "brier": made.fig(0.15), "difference": made.fig(0)}
                    for site in SITES
                },
            }
        ],
    }


def _roc(power: float) -> dict[str, list[float]]:
    wrong = np.linspace(0, 1, 80)
    return {
        "false_positive_rate": wrong.tolist(),
        "true_positive_rate": (wrong ** (1.15 - power)).tolist(),
    }


def _calibration(made: _Numbers, patients: int) -> dict[str, list[float]]:
    grid = np.linspace(0.05, 0.95, 40)
    observed = np.clip(grid + 0.08 * np.sin(4 * grid), 0, 1)
    edges = np.linspace(0, 1, 21)
    middle = (edges[1:] + edges[:-1]) / 2
    return {
        "grid": grid.tolist(),
        "observed": observed.tolist(),
        "low": np.clip(observed - 0.08, 0, 1).tolist(),
        "high": np.clip(observed + 0.08, 0, 1).tolist(),
        "edges": edges.tolist(),
        "events": made.generator.binomial(patients // 20, middle).tolist(),
        "non_events": made.generator.binomial(patients // 20, 1 - middle).tolist(),
    }


def _decision() -> dict[str, list[float | None]]:
    threshold = np.linspace(0.01, 0.99, 99)
    everyone = 0.55 - 0.45 * threshold / (1 - threshold)
    model = np.maximum(0.55 * (1 - threshold**2), everyone)
    avoided = 100 * (model - everyone) * (1 - threshold) / threshold
    return {
        "thresholds": threshold.tolist(),
        "model": model.tolist(),
        "low": (model - 0.03).tolist(),
        "high": (model + 0.03).tolist(),
        "treat_all": everyone.tolist(),
        "avoided": avoided.tolist(),
        "avoided_low": (avoided - 4).tolist(),
        "avoided_high": [*(avoided[:-1] + 4).tolist(), None],
    }


def _instability(made: _Numbers) -> dict[str, Any]:
    p = np.sort(made.generator.uniform(0.01, 0.99, 300))
    spread = 0.4 * p * (1 - p)
    return {
        "mape": 0.0314,
        "mape_max": 0.1592,
        "changed_decisions": 0.0653,
        "p": p.tolist(),
        "low": (p - spread).tolist(),
        "high": (p + spread).tolist(),
    }
