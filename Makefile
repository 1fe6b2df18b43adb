# Each target does all of its own set-up: it needs Python 3.11 or newer with venv, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Of the smallest machine, which has two cores, three times as many: what many tests do is wait.
PYTEST_WORKERS ?= 6

# The tests start hundreds of processes: whoever has forbidden Python to keep what it has compiled would compile it anew
# in each of them.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test check format coverage clean

demo: $(INSTALLED)
	@$(BIN)/zpatterns demo

test: $(INSTALLED)
	@$(BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(INSTALLED)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine
	$(BIN)/coverage report

clean:
	rm -rf $(VENV) build dist .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache

# Installed anew only when what makes the installation changes. The stamp is written last, so that an installation that
# was broken off is begun again.
$(INSTALLED): pyproject.toml hatch_build.py zpatterns/_frames.c
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "zpatterns needs Python 3.11 or newer, and $(PYTHON) is %d.%d: run make PYTHON=/path/to/python3.11" % v[:2])'
	@echo "Setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@
