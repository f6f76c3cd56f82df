"""What the field does: FastAPI, a pydantic model and scikit-learn on a one-row DataFrame."""

from __future__ import annotations

import os

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
PIPELINE = joblib.load(os.environ["BENCH_PIPELINE"])


class Patient(BaseModel):
    """One patient."""

    age: float
    sex: float
    cp: float
    trestbps: float
    chol: float
    fbs: float
    restecg: float
    thalach: float
    exang: float
    oldpeak: float
    slope: float
    ca: float
    thal: float


@app.post("/predict")
def predict(patient: Patient) -> dict[str, float]:
    """One patient's probability."""
    return {"probability": PIPELINE.predict_proba(pd.DataFrame([patient.model_dump()]))[0, 1]}


@app.post("/predict/untyped")
def predict_untyped(patient: dict[str, float]) -> dict[str, float]:
    """One patient's probability, without the pydantic model."""
    return {"probability": PIPELINE.predict_proba(pd.DataFrame([patient]))[0, 1]}


@app.post("/batch")
def batch(patients: list[Patient]) -> dict[str, list[float]]:
    """Many patients' probabilities."""
    table = pd.DataFrame([patient.model_dump() for patient in patients])
    return {"probabilities": PIPELINE.predict_proba(table)[:, 1].tolist()}
