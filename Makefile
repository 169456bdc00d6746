# Wherry's words. `make lab` and `make test` set up whatever they need; `make check` needs no root.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
LAB := default
NODES := 3
ONLY :=
# Compiled modules are kept, whatever the image says: see tests/conftest.py.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup-test lab lab-down test check bench soak setup venv format clean

help:
	@echo "make lab       a three-node cluster in network namespaces, with a demo application (root)"
	@echo "make lab-down  take it down; the machine is as it was"
	@echo "make test      everything: check, contracts, real kernel, whole cluster (root)"
	@echo "make check     format, lint, types, import contracts, unit tests (no root, about a minute)"
	@echo "make bench     figures against floors measured in the same run [ONLY=prefix] (root)"
	@echo "make soak      the long trials at full length [ONLY=name] (root)"

# The virtual environment, made anew when the project's dependencies change.
venv: $(VENV)/.installed
$(VENV)/.installed: pyproject.toml tools/venv
	@tools/venv $(VENV)
	@touch $@

# Programs from the distribution's packages; does nothing, and takes no time, when they are all there.
setup setup-test:
	@tools/setup $(if $(filter setup-test,$@),test,lab)

lab: setup venv
	@$(BIN)/wherry lab --name $(LAB) up --nodes $(NODES)

lab-down:
	@$(BIN)/wherry lab --name $(LAB) down

check: venv
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/lint-imports --no-logo 2>&1 | tail -n 20; exit $${PIPESTATUS[0]}
	@said=$$(mktemp); $(BIN)/mypy >$$said 2>&1 & types=$$!; \
	$(BIN)/pytest -q -n 2 tests/unit; units=$$?; \
	wait $$types; types=$$?; cat $$said; rm -f $$said; [ $$units -eq 0 ] && [ $$types -eq 0 ]

test: setup-test check
	@$(BIN)/python -m tests.lanes

bench: setup-test venv
	@$(BIN)/python -m tests.bench $(ONLY)

soak: setup-test venv
	@$(BIN)/pytest -q --soak --timeout 14400 $(if $(ONLY),-k $(ONLY)) tests/contracts tests/node tests/cluster

format: venv
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .bench dist build
