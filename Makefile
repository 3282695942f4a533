# make run       the proxy with a sample backend
# make test      all checks and tests
# make compiled  the compiled build, in .venv/compiled; make test-compiled: all of its tests
# make soak      the endurance tests, with twenty times as much work
# make fuzz      coverage-guided fuzzing of what reads requests and responses
# make lint      ruff, mypy and generated files only
# make format    format the code
# make benchmark chp beside other proxies; writes docs/performance.md
# make generate  write generated files again
# make clean     remove everything that these made

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
PYTEST_ARGS ?=
# Tests run in so many processes, file by file; 0 is this one. The files are given away in their order:
# those of tests/e2e, of which one takes minutes, come first, and both processes end at the same time.
WORKERS ?= 2

# What the tests use beside Python packages. Installed where that is possible.
DEBIAN_PACKAGES = python3-venv python3-dev gcc openssl wrk chromium chromium-driver systemd redis-server postgresql
BENCHMARK_PACKAGES = openssl wrk haproxy nginx-light
SOAK_FACTOR ?= 20
FUZZ_ARGS ?=
BENCHMARK_ARGS ?= --write docs

BIN = $(VENV)/bin
SOURCES = chp tests setup.py $(wildcard benchmarks docs)
METADATA = pyproject.toml setup.py chp/__init__.py
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# apt-get, where this user may use it without being asked for a password; else nothing.
APT = $$(command -v apt-get >/dev/null || exit 0; \
	if [ "$$(id -u)" = 0 ]; then echo apt-get; \
	elif sudo -n true 2>/dev/null; then echo sudo -n apt-get; fi)
apt_install = apt="$(APT)"; [ -n "$$apt" ] && { export DEBIAN_FRONTEND=noninteractive; \
	$$apt install -qq -y --no-install-recommends $(1) >/dev/null 2>&1 </dev/null \
	|| { $$apt update -qq >/dev/null 2>&1; \
	$$apt install -qq -y --no-install-recommends $(1) >/dev/null </dev/null; }; }

# Of those below, what looks at the compiled modules most; make test-compiled runs all.
COMPILED_TESTS = tests/robustness/test_tls_leaks.py::test_tls_that_ends_in_every_way \
	$(patsubst %,tests/robustness/test_leaks.py::test_%,upgrades_that_vanish aborted_downloads_and_uploads) \
	tests/fuzz/test_conversations.py tests/unit/test_compiled.py tests/unit/http1 tests/unit/servers tests/unit/upstream \
	$(patsubst %,tests/wire/test_%.py,aborts backpressure fields framing keepalive malformed pool streaming tunnel upgrade)

# The same tests on the compiled build, and what they start as well, wherever that runs. Not with
# "python -m": it would find the sources here first.
test_compiled = CHP_COMPILE=1 PYTHONPATH=$(abspath $(VENV)/compiled) $(BIN)/pytest -n $(WORKERS) --dist loadfile $(1)

.PHONY: run compiled test test-compiled soak fuzz lint format generate benchmark clean

run: $(VENV)/.run
	@exec $(BIN)/python -m chp.sample --port $(PORT)

test: lint $(VENV)/.packages $(VENV)/hub5/.installed compiled
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	$(if $(PYTEST_ARGS),,$(call test_compiled,$(COMPILED_TESTS) -k 'not wire or uvloop-direct'))

test-compiled: compiled $(VENV)/.test
	$(call test_compiled,$(or $(PYTEST_ARGS),$(patsubst %,tests/%,robustness fuzz wire unit)))

compiled: $(VENV)/compiled/.installed

soak: $(VENV)/.test
	SOAK_FACTOR=$(SOAK_FACTOR) $(BIN)/python -m pytest tests/robustness $(PYTEST_ARGS)

fuzz: $(VENV)/.fuzz
	$(BIN)/python tests/fuzz $(FUZZ_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --strict chp
	@$(BIN)/chp --generate-config -y -f $(VENV)/chp_config.py >/dev/null
	@cmp -s chp_config.py $(VENV)/chp_config.py || { echo "chp_config.py is not up to date: run make generate" >&2; exit 1; }

format: $(VENV)/.test
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

generate: $(VENV)/.test
	$(BIN)/chp --generate-config -y -f chp_config.py
	$(BIN)/python docs/make_options.py

benchmark: $(VENV)/.run compiled
	@dpkg -s $(BENCHMARK_PACKAGES) >/dev/null 2>&1 || { $(call apt_install,$(BENCHMARK_PACKAGES)); } \
		|| echo "Could not install: $(BENCHMARK_PACKAGES)" >&2
	$(BIN)/python -m benchmarks --installed $(VENV)/benchmark-peers $(BENCHMARK_ARGS)

clean:
	rm -rf $(VENV) artifacts build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find chp tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A venv without pip is what Debian leaves when python3-venv is missing.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.10 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "$(PYTHON) is too old: Python 3.10 or newer is needed" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call apt_install,python3-venv); } \
		|| { echo "Python's venv is missing: install python3-venv" >&2; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/pip $(METADATA)
	@echo "Installing into $(VENV)"
	@$(PIP) -e '.[speed]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/pip $(METADATA)
	@echo "Installing into $(VENV), with what tests need"
	@$(PIP) -e '.[speed,test]'
	@touch $@ $(VENV)/.run

# What a build before has left is not part of this one.
$(VENV)/compiled/.installed: $(VENV)/bin/pip $(METADATA) $(shell find chp share -name '*.py' -o -name '*.html')
	@echo "Compiling into $(VENV)/compiled"
	@rm -rf $(VENV)/compiled build
	@CHP_COMPILE=1 $(PIP) --no-deps --target $(VENV)/compiled .
	@touch $@

$(VENV)/.fuzz: $(VENV)/.test
	@echo "Installing atheris into $(VENV)"
	@$(PIP) atheris
	@touch $@

# JupyterHub 5 with its own tests, which are of the time of these versions.
$(VENV)/hub5/.installed: $(VENV)/bin/pip $(METADATA)
	@echo "Installing JupyterHub 5 into $(VENV)/hub5"
	@$(PYTHON) -m venv $(VENV)/hub5
	@$(VENV)/hub5/bin/python -m pip install --quiet --disable-pip-version-check -e '.[speed]' 'jupyterhub==5.*' \
		jupyter-server beautifulsoup4 requests-mock 'pytest<9' 'pytest-asyncio<1'
	@touch $@

# Tests say which program they miss, where packages can't be installed.
$(VENV)/.packages: $(VENV)/bin/pip Makefile
	@dpkg -s $(DEBIAN_PACKAGES) >/dev/null 2>&1 || { $(call apt_install,$(DEBIAN_PACKAGES)); } \
		|| echo "Could not install: $(DEBIAN_PACKAGES)" >&2
	@touch $@
