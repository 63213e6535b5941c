# make demo: erase weapons from the embedded world. make test: the whole test suite. Needs Python 3.11 and make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check format world install clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[development,nudity]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/python cli.py fit --config emoji.yaml

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

world: $(INSTALLED)
	$(BIN)/python -m rece_lightning.emoji.training
	$(BIN)/python -m benchmarks.world

clean:
	rm -rf $(VENV) build dist *.egg-info
