# Needs Python 3.11 or later and make; everything else comes into .venv and, where Go is there, into peers/*/bin.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check venv peers lock clean

help:  ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

venv: $(VENV)/.complete  ## make .venv with all that unblink and its tests need, at the locked versions

$(VENV)/.complete: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "unblink needs Python 3.11 or later; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: venv  ## run the incident on this machine
	$(BIN)/unblink lab run incident

check: venv  ## lint, types and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

peers: venv  ## build the Go client-go peer, where a Go toolchain is there
	$(BIN)/python -m unblink.lab.clients.peer_build

test: check peers  ## run the whole test suite
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report --skip-covered --sort=cover

lock:  ## write requirements/dev.txt anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --all-extras --group dev --custom-compile-command "make lock" pyproject.toml -o requirements/dev.txt

clean:  ## remove what make made
	rm -rf $(VENV) .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
