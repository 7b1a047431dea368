# Everything starts here. A fresh machine needs python3 (>= 3.10) with pip, make and git; the rest is fetched once:
# uv into .tools (unless it is on PATH), the pinned packages of pins.txt into .venv.

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
PY := .venv/bin/python
READY := .venv/.ready
JOBS ?= 2

export UV_PYTHON_DOWNLOADS := never
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Threads that wait sleep: on a machine where something else runs, spinning made a training step ten times slower.
export OMP_WAIT_POLICY ?= PASSIVE
# Bytecode is kept: without it every process of the tests compiles the sources of torch again, ten seconds each.
unexport PYTHONDONTWRITEBYTECODE

# One thread for each test process: two processes with all threads each are slower than one.
CALM := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PRUNEKIT_SCALE=mini

.NOTPARALLEL:
.PHONY: help demo test lab book sizes speed notebooks bench bench-zoo lint types nbcheck nbval unit coverage pins readme picture clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(READY) ## lesson 00 without a browser: a pruned, proved, exported network in demo/
	@$(PY) book/vendor.py >/dev/null 2>&1 || echo "MathJax could not be fetched: equations in demo/ stay as TeX"
	@$(PY) -m prunekit.cli demo --out demo

test: $(READY) ## everything a change must pass; a step that fails does not hide the others
	@$(MAKE) --no-print-directory --keep-going lint types nbcheck book nbval unit

lint: $(READY) ## ruff, rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(READY) ## pyright
	$(PY) -m pyright

nbcheck: $(READY) ## do notebooks and README say what their sources say?
	$(PY) notebooks/build.py --check

nbval: $(READY) ## run every notebook again and compare the checked cells; a cell that hangs ends after five minutes
	$(CALM) $(PY) -m pytest -p no:cacheprovider -n $(JOBS) --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=300 notebooks/*.ipynb

UNIT = $(CALM) $(PY) -m pytest -n $(JOBS) --dist loadfile --ignore=tests/benchmarks --durations=20 --durations-min=5

unit: $(READY) ## pytest; the benchmarks are in `make bench`
	$(UNIT)

coverage: $(READY) ## the same with coverage, which takes nearly twice as long
	$(UNIT) --cov --cov-report=term --cov-report=xml

bench: $(READY) ## speed and memory, one process
	$(PY) -m pytest tests/benchmarks -o python_files='bench_*.py' -s

bench-zoo: $(READY) ## 140 networks, ours and Torch-Pruning, each in its own process: hours; make bench-zoo ARGS="--only resnet"
	PYTHONPATH=tests/benchmarks $(PY) -m zoo.run $(ARGS)

notebooks: $(READY) ## build notebooks/*.ipynb from notebooks/src, all or one: make notebooks NB=00
	$(CALM) $(PY) notebooks/build.py $(NB)

readme: $(READY) ## write the table of lessons into README.md
	$(PY) notebooks/build.py --readme

picture: $(READY) ## the picture of the README and of the book's first page, from lesson 00
	$(PY) -m prunekit.cli demo --out demo
	cp demo/before_after.png book/_static/before_after.png

sizes: $(READY) ## count every network that a paper prints a size of: book/results/sizes
	$(PY) book/sizes.py

speed: $(READY) ## widths and int8 on onnxruntime, for the book's page on devices: book/results/speed
	OMP_NUM_THREADS=1 $(PY) book/speed.py

book: $(READY) ## the Jupyter Book, warnings are errors: book/_build/html/index.html
	$(PY) book/build.py

lab: $(READY) ## JupyterLab on the course
	$(PY) -m prunekit.cli lab

pins: .tools/bin/uv ## resolve the dependencies anew into pins.txt (make pins UPGRADE=--upgrade for the newest)
	.tools/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --no-emit-index-url --no-header --no-annotate $(UPGRADE) -o pins.txt

clean: ## remove what was built, not .venv
	rm -rf demo book/_build book/generated book/_static/vendor build dist .coverage coverage.xml .pytest_cache .ruff_cache .benchmarks

$(READY): pins.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "prunekit needs Python >= 3.10, $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@test -x "$$(command -v $(UV))" || $(MAKE) --no-print-directory .tools/bin/uv
	@test -x $(PY) || $(UV) venv .venv --python $(PYTHON)
	$(UV) pip sync --python $(PY) pins.txt
	$(UV) pip install --python $(PY) --no-deps -e .
	@touch $(READY)

.tools/bin/uv:
	$(PYTHON) -m pip install --quiet --target .tools uv
