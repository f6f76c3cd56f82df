# Two images: the service (the last stage, so the default) and the trainer that makes its model.
#
#   docker build -t heart-api .                             the service
#   docker build --target trainer -t heart-trainer .        the pipeline: data, exploration, training
#   docker build --target mlflow -t heart-mlflow .          the trainer's MLflow with a PostgreSQL driver
#
# The base is pinned by its minor version, not by a digest: the lock and the tests were written on
# machines that cannot reach an image registry, and an invented digest would be worse than none.
# A site that can should pin it (docker buildx imagetools inspect python:3.12-slim).
FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# --without-pip: the base's pip installs into it; it holds no pip and no setuptools of its own.
RUN python -m venv --without-pip /opt/heartdx
COPY requirements-serve.lock ./
# --no-deps: the lock is whole (pip check says so below), and pip refuses a dependency with an
# extra (`pydantic[email]`) whose lock line names none.
RUN pip --python /opt/heartdx/bin/python install --no-compile --only-binary :all: --no-deps \
      --require-hashes -r requirements-serve.lock \
 && pip --python /opt/heartdx/bin/python check
COPY pyproject.toml README.md LICENSE ./
COPY src/heartdx src/heartdx
# The build backend is locked beside the serving set; it builds the wheel and goes.
RUN pip --python /opt/heartdx/bin/python install --no-compile --no-deps --no-build-isolation . \
 && pip --python /opt/heartdx/bin/python uninstall --quiet --yes \
      editables hatchling pathspec pluggy tomlkit trove-classifiers
COPY src/__init__.py src/api.py app/src/
COPY models app/models
# A third of the packages' bytes is for developers: their tests, type stubs, headers, ONNX
# Runtime's converters, and its C library, which its Python module holds a second time. What is
# left is what tests/image serves, signs and verifies with. Then only the current bundle,
# readable by any user; bytecode that is valid whatever a file's time is, since the root file
# system is read-only when it runs.
RUN site=$(echo /opt/heartdx/lib/python3.*/site-packages) \
 && find "$site" -type d \( -name tests -o -name test_data \) -prune -exec rm -rf {} + \
 && find "$site" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \
      -o -name '*.a' \) -delete \
 && rm -rf "$site/numpy/f2py" "$site/numpy/typing" "$site/onnxruntime/backend" \
      "$site/onnxruntime/datasets" "$site/onnxruntime/quantization" "$site/onnxruntime/tools" \
      "$site/onnxruntime/transformers" "$site/onnxruntime/capi"/libonnxruntime.so.* \
 && if [ -f app/models/current ]; then \
      find app/models/bundles -mindepth 1 -maxdepth 1 ! -name "$(cat app/models/current)" \
        -exec rm -rf {} +; \
    fi \
 && chmod -R a+rX app \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/heartdx/lib \
 && python -m compileall -q --invalidation-mode unchecked-hash -s app -p /app app/src

# -- the trainer -----------------------------------------------------------------------------
FROM python:3.12-slim AS train-build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/heartdx
COPY requirements.lock ./
# venn-abers comes as a source package only: pure Python, hash-checked like the rest; its build
# backend is fetched for the build alone.
RUN pip --python /opt/heartdx/bin/python install --no-compile --only-binary :all: \
      --no-binary venn-abers --no-deps --require-hashes -r requirements.lock \
 && pip --python /opt/heartdx/bin/python check
COPY pyproject.toml README.md LICENSE ./
COPY src/heartdx src/heartdx
RUN pip --python /opt/heartdx/bin/python install --no-compile --no-deps --no-build-isolation . \
 && pip --python /opt/heartdx/bin/python uninstall --quiet --yes \
      editables hatchling pathspec pluggy tomlkit trove-classifiers
RUN find /opt/heartdx/lib -type d -name tests -prune -exec rm -rf {} + \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/heartdx/lib \
 && mkdir /work

FROM python:3.12-slim AS trainer
ARG REVISION=unknown
LABEL org.opencontainers.image.title="heart-trainer" \
      org.opencontainers.image.description="Trains and evaluates the model that heart-api serves" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
# A numeric user has no home and no name: libraries that ask for one are told here.
ENV PATH=/opt/heartdx/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=heartdx \
    MPLBACKEND=agg \
    GIT_PYTHON_REFRESH=quiet
COPY --from=train-build /opt/heartdx /opt/heartdx
# Everything is written under the working directory, and scratch files to /tmp; the root file
# system may be read-only. A named volume takes over the owner of this folder.
COPY --from=train-build --chown=10001:10001 /work /work
WORKDIR /work
USER 10001:10001
STOPSIGNAL SIGTERM
# What is given after the image's name are options of `heartdx train`.
ENTRYPOINT ["sh", "-euc", "heartdx fetch --source embedded --output data/raw/heart.csv; heartdx explore --data data/raw/heart.csv --out reports/figures; exec heartdx train --data data/raw/heart.csv --models-dir models --reports-dir reports \"$@\"", "pipeline"]
CMD []

# -- MLflow for compose.yaml -----------------------------------------------------------------
FROM trainer AS mlflow
LABEL org.opencontainers.image.title="heart-mlflow" \
      org.opencontainers.image.description="MLflow tracking server, with the PostgreSQL driver"
COPY ops/compose/postgres-driver.lock.txt /tmp/
USER 0:0
RUN pip --python /opt/heartdx/bin/python install --no-cache-dir --only-binary :all: --no-deps \
      --require-hashes --root-user-action ignore -r /tmp/postgres-driver.lock.txt \
 && rm /tmp/postgres-driver.lock.txt \
 && mkdir /artifacts \
 && chown 10001:10001 /artifacts
USER 10001:10001
EXPOSE 5000
ENTRYPOINT ["mlflow"]
CMD ["server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]

# -- the service -----------------------------------------------------------------------------
FROM python:3.12-slim
ARG REVISION=unknown
LABEL org.opencontainers.image.title="heart-api" \
      org.opencontainers.image.description="Calibrated diagnostic probability of coronary artery disease at angiography" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/heartdx/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=build /opt/heartdx /opt/heartdx
COPY --from=build /build/app ./
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# http.client and not urllib: a proxy set for the container must not be asked for 127.0.0.1.
HEALTHCHECK --interval=30s --timeout=3s --start-period=15s --retries=3 \
  CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=2); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
CMD ["uvicorn", "src.api:app", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", "--timeout-graceful-shutdown", "15"]
