# `make quickstart` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# tests in processes with one thread each: tiny models gain nothing from more threads. There is one more process than
# the two cores that are expected, since some tests wait for what they start
TEST_FLAGS ?= -n 3

.PHONY: quickstart results test lint types tests docs clean

quickstart: $(VENV)/.installed
	$(BIN)/robustlm quickstart

# Every study of the mini scale, with its report; says first how long it takes, and goes on where it ended. Hours to days:
# `make results RESULTS_FLAGS=--dry_run` only says how long. Needs ROBUSTLM_BASE and ROBUSTLM_DATA (docs/studies.md).
RESULTS_FLAGS ?=
results: $(VENV)/.installed
	$(BIN)/python -m benchmarks.results $(RESULTS_FLAGS)

# the types are checked while the tests run: both have to be good
test: lint
	@$(MAKE) --no-print-directory --jobs=2 types tests

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

tests: $(VENV)/.tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_FLAGS)

# The site of docs/, in build/site. A warning is an error: so no --quiet here, which would hide warnings from --strict.
# The variable hides a notice of the theme's.
docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "built: build/site (look at it: $(BIN)/python -m mkdocs serve)"

# A CPU build of torch where the index or the machine offers one; any torch that is there already is kept.
$(VENV)/.installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[test,openai]"
	touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info runs
