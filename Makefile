# Two commands: `make reproduce` runs everything in the lite profile, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: help reproduce test test-fast lab notebooks book clean
export HF_HUB_OFFLINE ?= 1

help:
	@echo "make reproduce   set up, run notebooks 1 to 6 in the lite profile, print the result table"
	@echo "make test        set up, lint, unit tests, notebook tests"
	@echo "make test-fast   the unit tests that take seconds"
	@echo "make lab         set up, open JupyterLab"
	@echo "make notebooks   execute the committed notebooks in place"
	@echo "make book        the notebooks as pages to read without a network: book/index.html"
	@echo "make clean       remove the lite run and the drawn datasets (not the environment)"

# The stamp is written last: an installation that was interrupted is simply done again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, and $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(READY)

reproduce: $(READY)
	$(BIN)/python -m tmcir_lite run --config lite --resume

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 tests
	rm -rf runs/smoke
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env -p no:python --nbval-cell-timeout=3600 notebooks

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m "not slow" tests

lab: $(READY)
	$(BIN)/jupyter lab notebooks

notebooks: $(READY)
	$(BIN)/python -m tmcir_lite notebooks

book: $(READY)
	$(BIN)/python -m tmcir_lite.course.book

clean:
	rm -rf runs/lite runs/smoke data/garments data/garments-smoke data/garments.partial data/tour
