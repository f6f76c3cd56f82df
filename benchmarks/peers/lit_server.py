"""The pipeline in LitServe, one worker."""

import os
import sys

import joblib
import litserve
import pandas as pd


class Heart(litserve.LitAPI):
    """Probabilities of the pipeline."""

    def setup(self, device: str) -> None:
        """Load the pipeline."""
        self.pipeline = joblib.load(os.environ["BENCH_PIPELINE"])

    def decode_request(self, request: dict) -> pd.DataFrame:
        """Records to a table."""
        return pd.DataFrame(request["records"])

    def predict(self, x: pd.DataFrame) -> list[float]:
        """One probability a row."""
        return self.pipeline.predict_proba(x)[:, 1].tolist()

    def encode_response(self, output: list[float]) -> dict:
        """The answer."""
        return {"probabilities": output}


if __name__ == "__main__":
    server = litserve.LitServer(Heart(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
