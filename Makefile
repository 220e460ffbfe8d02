# Targets: see `make help`. Everything runs in .venv, which `make env` makes once.

VENV := .venv
# An environment that is there already stays with its own Python, unless PYTHON names another.
PYTHON ?= $(shell $(VENV)/bin/python -c 'print("$(VENV)/bin/python")' 2>/dev/null || echo python3)
DEMO_ARGS ?=
ABLATION_ARGS ?=
TEST_ARGS ?=
# Two processes of one thread each: on images this small, threads only wait for each other. All tests of a file run in
# one process, which shares their fixtures.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest tests -q -n 2 --dist loadfile

.PHONY: help env test test-fast demo ablation clean

help:
	@echo "make env    set up $(VENV) (again: a second; PYTHON=python3.12 picks the interpreter)"
	@echo "make test   run all tests, as CI does (TEST_ARGS=\"-k teacher\" goes to pytest)"
	@echo "make test-fast   those that take a moment: no trainings, no programs in processes of their own"
	@echo "make demo   train and adapt a small detector on the CPU (DEMO_ARGS=\"...\" goes to tools/demo.py)"
	@echo "make ablation   the README's table: methods side by side, hours (ABLATION_ARGS=\"--seeds 2 --jobs 2 --threads 1\")"
	@echo "make clean  remove caches and build leftovers; $(VENV), data and output stay"

env:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: there is no Python named '$(PYTHON)': install Python 3.9 to 3.12, or name one with PYTHON=..." >&2; \
	  exit 1; }
	@"$(PYTHON)" tools/make_env.py --venv $(VENV)

test: env
	$(PYTEST) $(TEST_ARGS)

test-fast: env
	$(PYTEST) -m "not slow" $(TEST_ARGS)

demo: env
	$(VENV)/bin/python tools/demo.py $(DEMO_ARGS)

ablation: env
	$(VENV)/bin/python datasets/make_minicity.py
	$(VENV)/bin/python tools/ablation.py $(ABLATION_ARGS)

clean:
	rm -rf build dist mic_det.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
