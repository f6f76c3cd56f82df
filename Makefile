# The front door. `make help` lists what there is; nothing but make, a Python 3 and a package
# registry is needed for set-up, pipeline, serve and test.

SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin

# Yours to set: make serve PORT=9000; make test ARGS='-k leak'; make setup SETUP_PYTHON=3.13
PORT ?= 8000
ADDRESS ?= 127.0.0.1
MLFLOW_PORT ?= 5000
IMAGE ?= heart-api
DOCKER_BUILD_FLAGS ?=
SETUP_PYTHON ?=
SOURCE ?= embedded
JOB ?= test
COVERAGE ?=
ARGS ?=

DATA := data/raw/heart.csv
RELEASES := 1.33 1.35
SHELL_SCRIPTS := .ci/run $(wildcard tools/*.sh) $(wildcard ops/ci/*.sh) $(wildcard ops/compose/*.sh)
YAML_FILES := .github/workflows k8s compose.yaml ops/compose
SUPPLY := ops/ci/supply-tools.sh $(BIN)/python
POLICIES := ops/ci/supply-tools.sh ops/ci/scanners.sh $(BIN)/python
# sys.monitoring costs a twentieth of the time; the tracer before it doubles it.
MEASURED := COVERAGE_CORE=sysmon COVERAGE_FILE=coverage/data
COVERAGE_FLOOR := 95
COVERAGE_FLAGS := --cov --cov-report=term --cov-report=xml:coverage/coverage.xml \
  --cov-report=html:coverage/html --cov-fail-under=$(COVERAGE_FLOOR)
YAML_RULES := {extends: default, rules: {line-length: {max: 110}, document-start: disable, \
  truthy: {check-keys: false}, comments: {min-spaces-from-content: 1}}}

# Another environment's settings must not reach into this one.
unexport PYTHONPATH PYTHONHOME PYTHONUSERBASE VIRTUAL_ENV CONDA_PREFIX
# `make` inside a test is another run.
unexport COVERAGE

# Any Python 3.6 or newer runs the set-up; a command may be a shim that fails, so each is tried.
define BOOTSTRAP
for python in python3 python python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 \
    "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3*/bin/python3; do \
  if "$$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then \
    exec "$$python" -I tools/bootstrap.py --python '$(SETUP_PYTHON)' $(1); \
  fi; \
done; \
echo 'setup: error: no Python 3 runs here; install one (Debian, Ubuntu: apt-get install python3)' >&2; \
exit 1
endef

##@ Use it

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z][a-z-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## .venv with what the runbook needs (instant and offline when nothing changed)
	@$(call BOOTSTRAP)

.PHONY: pipeline
pipeline: ## everything: set-up, data, exploration, training and evaluation, with wall times
	@report=''; \
	for step in setup data eda train; do \
	  begun=$$(date +%s); \
	  $(MAKE) --no-print-directory $$step || exit 1; \
	  report="$$report$$(printf '\n  %-8s %4s s' $$step $$(($$(date +%s) - begun)))"; \
	done; \
	printf 'wall time by step:%s\nnext: make serve\n' "$$report" >&2

.PHONY: data
data: setup ## the four hospitals' 920 patients -> data/raw/heart.csv (SOURCE=auto asks UCI first)
	$(BIN)/python data/download_data.py --output $(DATA) --source $(SOURCE)

.PHONY: eda
eda: $(DATA) ## figures and tables of the data -> reports/
	$(BIN)/python -m src.eda --data $(DATA) --out reports/figures

.PHONY: train
train: $(DATA) ## train, evaluate, write the bundle -> models/, reports/, mlruns/
	$(BIN)/python -m src.model_train --data $(DATA) --models-dir models --reports-dir reports

.PHONY: evaluate
evaluate: $(DATA) ## the full evaluation, some minutes -> reports/evaluation.html
	$(BIN)/python -m heartdx.cli evaluate --full --data $(DATA) --reports-dir reports

.PHONY: serve
serve: setup ## the service on the newest model (PORT=8000, ADDRESS=127.0.0.1)
	$(BIN)/python -m uvicorn src.api:app --host $(ADDRESS) --port $(PORT)

.PHONY: mlflow
mlflow: setup ## MLflow's page on the training runs (MLFLOW_PORT=5000)
	$(BIN)/python -m mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db \
	  --default-artifact-root mlruns/artifacts --host $(ADDRESS) --port $(MLFLOW_PORT)

models/current: | $(DATA)
	$(BIN)/python -m src.model_train --data $(DATA) --models-dir models --reports-dir reports

$(DATA): | setup
	$(BIN)/python data/download_data.py --output $(DATA) --source $(SOURCE)

##@ Work on it

.PHONY: setup-dev
setup-dev: ## the same .venv, and what tests and checks need
	@$(call BOOTSTRAP,--dev)

.PHONY: test
test: setup-dev ## every test but those of the heavier targets (ARGS='-k word'; COVERAGE=1 measures)
	$(if $(COVERAGE),$(MEASURED)) $(BIN)/python -m pytest -n 2 --dist loadgroup \
	  --ignore tests/image --ignore tests/supply --ignore tests/monitoring \
	  --ignore tests/service/test_speed.py \
	  $(if $(COVERAGE),$(COVERAGE_FLAGS)) $(ARGS)

.PHONY: test-speed
test-speed: setup-dev ## the instructions of a prediction beside a no-op application's (needs valgrind)
	ops/ci/valgrind.sh
	$(BIN)/python -m pytest tests/service/test_speed.py $(ARGS)

.PHONY: check
check: check-code check-types check-imports check-docs check-shell check-workflow check-manifests check-locks ## what CI asks of every commit, without the tests

.PHONY: docs
docs: setup-dev ## write the generated pages again
	$(BIN)/python tools/docs.py

.PHONY: manifests
manifests: setup-dev ## write k8s/ again where k8s/base and ops/ are its source
	$(BIN)/python tools/manifests.py

.PHONY: evidence
evidence: setup-dev evaluate ## evaluate in full, keep the figures in docs/evidence.json, write the pages
	$(BIN)/python tools/evidence.py reports/evaluation.json
	$(BIN)/python tools/docs.py

.PHONY: bench
bench: setup-dev models/current ## what a request costs, beside a no-op application and the peers (benchmarks/results.md)
	ops/ci/valgrind.sh
	$(BIN)/python -m benchmarks.run $(ARGS)

.PHONY: soak
soak: setup-dev models/current ## ten minutes of load with swaps, reloads and kills, every answer checked
	$(BIN)/python tools/soak.py $(ARGS)

.PHONY: dashboards
dashboards: setup-dev ## write Grafana's dashboards again (ops/grafana, and k8s from them)
	$(BIN)/python tools/dashboards.py
	$(BIN)/python tools/manifests.py

.PHONY: picture
picture: setup-dev models/current ## seven minutes of real traffic, drawn -> docs/images/dashboard.png
	ops/ci/prometheus.sh $(BIN)/python tests/monitoring/picture_run.py

.PHONY: lock
lock: ## write the requirements files again from pyproject.toml (UPGRADE=1: newest versions)
	@uv=$$($(call BOOTSTRAP,--uv)) && UV="$$uv" tools/lock.sh $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## remove what runs and set-up made: models, reports, data, .venv (ask: CONFIRM=1)
	@if [ '$(CONFIRM)' != 1 ]; then \
	  echo 'this removes .venv, .tools, data/raw, models, reports and mlruns here; sure: make clean CONFIRM=1' >&2; \
	  exit 2; \
	fi
	rm -rf .venv .tools data/raw reports mlruns models/bundles models/current models/candidates \
	  build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage coverage

##@ Ship it (needs a Docker engine; test-image and test-workflow bring one or do without)

.PHONY: image
image: ## build the service's image (IMAGE=heart-api)
	@docker info >/dev/null 2>&1 || { \
	  echo 'image: no Docker engine answers; start Docker, or on Debian as root:' >&2; \
	  echo '       eval "$$(ops/ci/docker-engine.sh start)" && ops/ci/base-image.sh' >&2; \
	  exit 1; \
	}
	docker build $(DOCKER_BUILD_FLAGS) \
	  --build-arg REVISION="$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" -t $(IMAGE) .

.PHONY: test-image
test-image: setup-dev models/current ## build the image for real and run it as k8s/deployment.yaml does
	ops/ci/docker-engine.sh run ops/ci/base-image.sh ops/ci/compose-images.sh \
	  $(BIN)/python -m pytest tests/image $(ARGS)

.PHONY: image-sizes
image-sizes: setup-dev models/current ## measure the images beside a plain one -> docs/image.md
	ops/ci/docker-engine.sh run ops/ci/base-image.sh $(BIN)/python tools/image_sizes.py

.PHONY: compose-env
compose-env: ## two random passwords for compose.yaml -> .env (kept when it is there)
	@[ -e .env ] || { umask 077; for name in POSTGRES_PASSWORD GRAFANA_PASSWORD; do \
	  printf '%s=%s\n' $$name "$$(python3 -I -c 'import secrets; print(secrets.token_urlsafe(24))')"; \
	done >.env; }

.PHONY: minikube-demo
minikube-demo: ## on Minikube: build, apply, ask, kill a pod and roll out a model under load
	@tools/minikube-demo.sh --tools
	@$(MAKE) --no-print-directory models/current
	tools/minikube-demo.sh

.PHONY: test-monitoring
test-monitoring: setup-dev ## rules, alerts in staged incidents, dashboards and runbooks, with a real Prometheus
	ops/ci/prometheus.sh $(BIN)/python -m pytest tests/monitoring $(ARGS)

.PHONY: sbom
sbom: setup-dev ## bills of materials of the serving set and of .venv -> reports/sbom/
	$(SUPPLY) tools/sbom.py

.PHONY: sbom-image
sbom-image: setup-dev ## build the image, and write the bill of what lies in it -> reports/sbom/
	ops/ci/docker-engine.sh run ops/ci/base-image.sh ops/ci/image-sbom.sh $(IMAGE)

.PHONY: licences
licences: setup-dev ## each locked package's licence against the allowed ones -> reports/licences.md
	$(BIN)/python tools/scan_licences.py

.PHONY: secrets
secrets: setup-dev ## look for secrets in every commit and file
	$(SUPPLY) tools/scan_secrets.py

.PHONY: audit
audit: setup-dev ## known vulnerabilities of every locked package (needs the public index)
	$(SUPPLY) tools/scan_audit.py

.PHONY: test-newest
test-newest: ## checks and tests with the newest versions of everything, in a scratch copy
	@uv=$$($(call BOOTSTRAP,--uv)) && UV="$$uv" ops/ci/newest.sh

.PHONY: test-workflow
test-workflow: setup-dev ## run .github/workflows/ci.yml for real with act (JOB=test; ARGS as for that job's targets)
	ops/ci/run-workflow.sh $(JOB)

# The nightly run: the kept figures are still what a full evaluation gives.
.PHONY: check-evidence
check-evidence: setup-dev evaluate
	$(BIN)/python tools/evidence.py reports/evaluation.json --check

# The supply chain as it stands: scans, bills of materials, and that each scan can fail.
.PHONY: check-supply check-dockerfile
check-supply: secrets licences check-dockerfile sbom
	$(SUPPLY) -m pytest -q tests/supply

check-dockerfile: setup-dev
	$(SUPPLY) tools/scan_dockerfile.py

# Every rendering, the Dockerfile and the workflows against the policies of two scanners.
.PHONY: check-policies
check-policies: setup-dev
	$(POLICIES) tools/scan_policies.py
	ops/ci/scanners.sh .tools/scanners/bin/python tools/operator_kinds.py k8s/monitoring/*.yaml
	$(POLICIES) -m pytest -q tests/manifests/scanned.py

# The parts of `make check`.
.PHONY: check-code check-types check-imports check-docs check-shell check-workflow check-manifests check-locks
check-code: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: setup-dev
	$(BIN)/mypy

check-imports: setup-dev
	$(BIN)/lint-imports

check-docs: setup-dev
	$(BIN)/python tools/docs.py --check

check-shell: setup-dev
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

check-workflow: setup-dev
	$(BIN)/yamllint --strict -d '$(YAML_RULES)' $(YAML_FILES)
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck -pyflakes= .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows

check-manifests: setup-dev
	$(BIN)/python tools/manifests.py --check
	for release in $(RELEASES); do \
	  $(BIN)/kubernetes-validate --strict -k $$release k8s/deployment.yaml || exit 1; \
	done
	$(BIN)/python -m pytest -q tests/architecture/test_manifests.py tests/manifests/rendered.py

check-locks: setup-dev
	$(BIN)/python -m pytest -q tests/architecture/test_locks.py
