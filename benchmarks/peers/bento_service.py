"""The pipeline in BentoML, one worker, as its guide for scikit-learn writes it."""

import os
from typing import Any

import bentoml
import joblib
import pandas as pd


@bentoml.service(workers=1)
class Heart:
    """Probabilities of the pipeline."""

    def __init__(self) -> None:
        self.pipeline = joblib.load(os.environ["BENCH_PIPELINE"])

    @bentoml.api
    def predict(self, records: list[dict[str, Any]]) -> list[float]:
        """One probability a record."""
        return self.pipeline.predict_proba(pd.DataFrame(records))[:, 1].tolist()
