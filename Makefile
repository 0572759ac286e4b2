# `make demo` shows the product, `make test` tests it. Each makes .venv first, once, from constraints.txt.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check clean lock

EXTRAS := train,cpu,rtx,serve,dicom,sign,dev
BIN := .venv/bin
# Tests of a real server on one side, everything else beside them: most of them wait more than they compute.
# A process that dies is the end of the run, which names the test: what xdist does with its group else waits for ever.
TEST := $(BIN)/pytest --numprocesses 2 --dist loadgroup --max-worker-restart 0
READY := .venv/ready
# The lock is for 3.11; `make PYTHON=…` names another interpreter. Looked up only where a recipe uses it.
PYTHON = $(shell for name in python3.11 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { command -v "$$name"; break; }; done)
NEED_PYTHON = test -n '$(PYTHON)' || { echo 'no Python 3.11 found: install it, or name one with make PYTHON=/path/to/python3.11' >&2; exit 2; }

help:
	@echo 'make demo   export, serve and measure on a study, results in out/demo  [DATA=path] [WINDOW="-1350 150"]'
	@echo 'make test   the tests'
	@echo 'make check  format, lint, types, floors, tests: what CI runs'
	@echo 'make setup  only the environment, .venv'
	@echo 'make lock   resolve pyproject.toml anew into constraints.txt'
	@echo 'make clean  remove what was made, but not .venv'

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	@$(NEED_PYTHON)
	@test -x $(BIN)/python || { echo 'making .venv with $(PYTHON)'; '$(PYTHON)' -m venv .venv || { rm -rf .venv; exit 2; }; }
	@echo "installing $$(grep -c == constraints.txt) packages, about 90 s when the network is fast (log: .venv/install.log)"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]' 2>&1 | tee .venv/install.log \
		| awk '/^ *(Downloading|Using cached|Processing) .*\.whl( |$$)/ { name = $$2 == "cached" ? $$3 : $$2; sub(".*/", "", name); \
			split(name, part, "-"); print "  " part[1] " " part[2]; fflush() } \
			/^Installing collected/ { print "  unpacking"; fflush() }' \
		|| { tail -n 20 .venv/install.log >&2; exit 2; }
	@$(BIN)/python -m pip check
	@# pyright does not follow the import hook of an editable install; this folder, its extraPaths, shows it the package.
	@mkdir -p .venv/source && ln -sfn ../.. .venv/source/coronanet
	@touch $@

demo: $(READY)
	@$(BIN)/coronanet demo $(if $(DATA),'$(DATA)') $(if $(WINDOW),--window $(WINDOW))

test: $(READY)
	@$(TEST)

check: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-logo
	$(TEST)

clean:
	rm -rf out bundles runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache triton_repo/*/1
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

lock:
	@$(NEED_PYTHON)
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && '$(PYTHON)' -m venv "$$work" \
		&& "$$work/bin/python" -m pip install --disable-pip-version-check -q -e '.[$(EXTRAS)]' \
		&& "$$work/bin/python" -m pip check \
		&& { head -n 1 constraints.txt; \
			"$$work/bin/python" -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//' | LC_ALL=C sort -f; \
		} > "$$work/constraints.txt" && cp "$$work/constraints.txt" constraints.txt
