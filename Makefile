# A fresh machine needs Python 3.11 or newer and nothing else: every target makes the environment that it uses.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TYPED := brittle_eval plugins/brittle_plugins tasks/brittle_tasks registry/brittle_registry

BENCHMARKS := attribution evaluation sweep finetune related
sweep_parts := sweep leaderboard report

.PHONY: test demo check docs bench clean

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

demo: $(INSTALLED)
	$(BIN)/brittle-eval --model hf --modify embedded-snip-diff --tasks embedded \
		--controls random:1,magnitude:1 --batch_size 64 --output_path runs/demo

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)

# Results of every benchmark go into one flat bench.json; ONLY=NAME runs one.
bench: $(INSTALLED)
	for name in $(foreach one,$(or $(ONLY),$(BENCHMARKS)),$(or $($(one)_parts),$(one))); do $(BIN)/python benchmarks/$$name.py --output bench.json || exit 1; done

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The constraints pin torch: without them pip takes the newest build, which on Linux brings gigabytes of CUDA libraries.
$(INSTALLED): pyproject.toml constraints.txt
	@$(or $(PYTHON),python3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(or $(PYTHON),python3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
