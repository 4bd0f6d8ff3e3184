# Needs Python 3.11 or later and make; everything else comes into .venv and, where Go is there, into peers/*/bin.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check venv peers bench lock clean

help:  ## show this
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

venv:  ## make .venv with all that unblink and its tests need, at the locked versions
	@$(PYTHON) requirements/install.py $(VENV)

demo: venv peers  ## run the incident on this machine
	@$(BIN)/unblink lab run incident

check: venv  ## lint, types and contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v gofmt >/dev/null; then echo gofmt -l peers; files=$$(gofmt -l peers) && test -z "$$files" || { echo "$$files"; exit 1; }; fi

peers: venv  ## build the Go client-go peer, where a Go toolchain is there
	@$(BIN)/python peers/build.py

# Coverage's files have a folder of their own, so that two runs at once do not take each other's.
test: check peers  ## run the whole test suite
	@data=$$(mktemp -d "$(CURDIR)/.coverage.XXXXXX") && trap 'rm -rf "$$data"' EXIT && \
	  COVERAGE_FILE="$$data/data" $(BIN)/pytest --cov --cov-report=term:skip-covered

bench: venv  ## run every benchmark (needs Go for client-go)
	@$(BIN)/python -m bench.informer

lock:  ## write requirements/dev.txt anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --all-extras --group dev --custom-compile-command "make lock" pyproject.toml -o requirements/dev.txt

clean:  ## remove what make made
	rm -rf $(VENV) bench/.envs peers/*/bin .coverage* .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
