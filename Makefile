# `make quickstart` and `make test` set up everything they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# tests in processes with one thread each: tiny models gain nothing from more threads. There is one more process than
# the two cores that are expected, since some tests wait for what they start. Each process gets a third of the tests in
# their order, so that those of a file share what they prepare; who is done early takes tests of another process
TEST_FLAGS ?= -n 3 --dist worksteal

# of `make base`: the folder of text and data sets, the folder of the model, and further options of both runs
DATA ?=
BASE ?= runs/base
BASE_FLAGS ?=

.PHONY: quickstart base results test lint types tests docs clean

quickstart: $(VENV)/.installed
	$(BIN)/robustlm quickstart

# A language model of 10 million parameters, from running text (DATA/text) and then from the training rows of ten data
# sets; see docs/base.md. The same command goes on after a kill. The second run begins in DATA, whose paths its config has
base: $(VENV)/.installed
	@test -n "$(DATA)" || { echo "make base: DATA is not set; expected the folder of text and data sets" >&2; exit 2; }
	@echo "make base: on one core of an AMD EPYC (AVX512-BF16), pre-training takes 3 to 4 hours, tuning 2 to 3; see docs/base.md"
	test -e $(BASE)/model/config.json || $(BIN)/robustlm init $(BASE)/model $(DATA)/text --text true --vocab_size 8192 \
	  --hidden_size 320 --layers 6 --heads 5 --intermediate_size 864 --initializer_range 0.02
	test -e $(BASE)/text/fit/adapter || $(BIN)/robustlm fit -c base --model.backbone $(BASE)/model \
	  --data.train $(DATA)/text --trainer.default_root_dir $(BASE) --run text --resume auto $(BASE_FLAGS)
	cd $(DATA) && { test -e $(abspath $(BASE))/instruct/fit/adapter || $(abspath $(BIN))/robustlm fit -c base_instruct \
	  --model.backbone $(abspath $(BASE))/text/fit/adapter --trainer.default_root_dir $(abspath $(BASE)) \
	  --run instruct --resume auto $(BASE_FLAGS); }
	@echo "make base: the model is in $(BASE)/instruct/fit/adapter"

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
