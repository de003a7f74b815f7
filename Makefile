# Needs Python 3.11 or later, pip and make. `make` alone lists what there is to do.

PYTHON  ?= python3
# Tests run as `make test ARGS="-k guard -x"`: then in one process, without coverage, and not counted as a run of the tests.
ARGS    ?=
# Processes that all tests are run in; each takes about 1.5 GiB.
WORKERS ?= 2

# Two threads of torch on two busy cores are several times slower than one, and sums come out in another order.
export OMP_NUM_THREADS ?= 1

VENV    := .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# Folders too, so that a deleted file counts as a change.
SOURCES := $(shell find src tests examples benchmarks docs -mindepth 1 -name __pycache__ -prune -o -path docs/_build -prune -o -print 2>/dev/null) \
           $(wildcard README.md CHANGELOG.md)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help race test check format lint types floors cpu coverage docs wheel bench clean

help: ## List the targets
	@sed -n 's/^\([a-z][a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name line; do \
		printf '  make %-8s %s\n' "$$name" "$$line"; done

race: $(VENV)/.race ## Race the shipped controller against tuned baselines on digits; writes a one-page report
	$(BIN)/trimtab race digits-mlp-v1

test: $(VENV)/.test ## Run all tests (ARGS="-k guard" for some of them)
	$(RUN_TESTS)

check: lint types floors cpu coverage docs wheel ## All that CI checks: lint, types, floors, tests, docs, the installed wheel

format: $(VENV)/.check ## Put the code into the project's format, and mend what ruff can mend
	$(BIN)/ruff check --quiet --fix-only .
	$(BIN)/ruff format .

lint: $(VENV)/.check ## Check format, style and spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell

types: $(VENV)/.check ## Check the types
	$(BIN)/mypy

floors: $(VENV)/.test ## Check that every import points to a lower floor
	$(BIN)/python -m pytest -q tests/test_floors.py

cpu: $(VENV)/.check ## Check that torch is a build for the CPU, which the golden numbers are for
	@$(BIN)/python -c "import sys, torch; torch.version.cuda and sys.exit('This torch is built for CUDA: \
	https://pytorch.org/get-started/locally says how to get the one for the CPU.')"

coverage: $(VENV)/.tested ## Check how much of the package the tests reach; runs them if something changed
	$(BIN)/python -m coverage report

docs: $(VENV)/.check ## Build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -b html docs docs/_build/html

wheel: $(VENV)/.check ## Build the wheel, install it in a bare venv and test it there
	rm -rf dist
	$(BIN)/python -m build --no-isolation > /dev/null
	@echo "installing the wheel in a bare venv, and running the quick tests there"
	@$(TEST_WHEEL)

bench: $(VENV)/.test ## Run the benchmarks (benchmarks/*.py), one after the other
	set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean: ## Remove the venv and all that was built
	rm -rf $(VENV) build dist docs/_build htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- how it is done

# A larger set contains the smaller ones: it marks them as installed.
$(VENV)/.race: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[race]'
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.race

$(VENV)/.check: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.race $(VENV)/.test

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("trimtab needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# Made anew only where something changed since all tests last passed: so `make test check` runs them once.
$(VENV)/.tested: $(SOURCES) pyproject.toml constraints.txt | $(VENV)/.check
	$(RUN_TESTS)

define RUN_TESTS
rm -f $(VENV)/.tested
$(BIN)/python -m pytest -q $(or $(ARGS),-n $(WORKERS) --cov --cov-report= --cov-fail-under=0)
$(if $(ARGS),,touch $(VENV)/.tested)
endef

# First with what the wheel itself asks for and nothing else, then with the tools of the tests beside it (they are borrowed
# from our own venv through a .pth file, which comes after the wheel on the path and does not bring the checkout along).
# The tests come out of the source distribution, so that it is known to be complete.
define TEST_WHEEL
set -e; there=$$(mktemp -d); trap 'rm -rf "$$there"' EXIT; python="$$there/venv/bin/python"; \
$(PYTHON) -m venv "$$there/venv"; \
"$$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl; \
mkdir "$$there/project"; tar -xzf dist/*.tar.gz -C "$$there/project" --strip-components=1; rm -r "$$there/project/src"; \
tools=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
cd "$$there/project"; \
package=$$("$$python" -c 'import pathlib, trimtab; print(pathlib.Path(trimtab.__file__).parent)'); \
case "$$package" in "$$there"/*) ;; *) echo "not the installed wheel: $$package" >&2; exit 1;; esac; \
"$$there/venv/bin/trimtab" --help > /dev/null; \
echo "$$tools" > "$$(dirname "$$package")/tools-of-the-tests.pth"; \
"$$python" -m pytest -q -n $(WORKERS) -m "not slow" tests "$$package"
endef
