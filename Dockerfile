# The service, and nothing that only training needs.
#
# The base is pinned by its minor version, not by a digest: the lock and the tests were written on
# machines that cannot reach an image registry, and an invented digest would be worse than none.
# A site that can should pin it (docker buildx imagetools inspect python:3.12-slim).
FROM python:3.12-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
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
# Only the current bundle, readable by any user; bytecode that is valid whatever a file's time
# is, since the root file system is read-only when it runs.
RUN if [ -f app/models/current ]; then \
      find app/models/bundles -mindepth 1 -maxdepth 1 ! -name "$(cat app/models/current)" \
        -exec rm -rf {} +; \
    fi \
 && chmod -R a+rX app \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/heartdx/lib \
 && python -m compileall -q --invalidation-mode unchecked-hash -s app -p /app app/src

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
