# Each target sets up .venv by itself, with the versions of constraints.txt, and is quick when nothing changed.
# Another interpreter (to change, delete .venv first): make test PYTHON=/path/to/python3.12

PYTHON =
COUNT = 2000
MINUTES = 5
SEED = 0
RUN = .venv/bin/python

help:
	@echo 'make figures   regenerate the gallery in figures/'
	@echo 'make test      run the tests'
	@echo 'make test-browser  open the page of goodteacher explore and the report of a diagnosis in Chromium'
	@echo 'make verify    check every statement of theory/ on many random instances'
	@echo 'make tightest  search for the least favourable instance of every bound, for figures/tightness'
	@echo 'make mutate    alter formulas and code one place at a time, and see what notices (MINUTES=)'
	@echo 'make audited   alter what an audit of version 0.1 altered, and write what notices it now'
	@echo 'make bench     measure speed and accuracy beside the alternatives'
	@echo 'make audit     search for wrong hitting times on random problems (COUNT=, SEED=)'
	@echo 'make docs      build the site in build/docs, and run its tutorials'
	@echo 'make lint      check style and types'

figures: .venv/installed
	$(RUN) -m goodteacher figures

test: .venv/installed
	$(RUN) -m pytest

test-browser: .venv/installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser,explorer]'
	$(RUN) -m pytest -n 0 -m browser tests/experiments/reports tests/experiments/explorer

verify: .venv/installed
	@mkdir -p build
	$(RUN) -m goodteacher verify --output build/verification.json --overwrite

tightest: .venv/installed
	@mkdir -p build
	$(RUN) -m goodteacher verify --adversarial --directory build/tightest --output theory/tightest.json --overwrite

mutate: .venv/installed
	@mkdir -p build
	$(RUN) -m benchmarks.mutate $(MINUTES)

audited: .venv/installed
	$(RUN) -m benchmarks.audited

bench: .venv/installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,browser,explorer]'
	$(RUN) -m benchmarks

audit: .venv/installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(RUN) -m benchmarks.audit $(COUNT) $(SEED)

docs: .venv/installed
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@rm -rf build/docs
	$(RUN) -m sphinx --builder html --doctree-dir build/doctrees --fresh-env --fail-on-warning --nitpicky --quiet docs build/docs
	$(RUN) docs/building/links.py build/docs

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(RUN) -m pyright

.venv/installed: pyproject.toml constraints.txt
	@if ! test -x $(RUN); then \
	  for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then found=$$python; break; fi; \
	  done; \
	  if test -z "$$found"; then \
	    echo 'goodteacher needs Python 3.11 or newer with venv; $(or $(PYTHON),python3) is not one.' >&2; \
	    echo 'Install one, or name it: make PYTHON=/path/to/python3.12' >&2; \
	    exit 1; \
	  fi; \
	  "$$found" -m venv --clear .venv; \
	fi
	@echo "Installing the versions of constraints.txt into .venv for $$($(RUN) --version)"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $@

.PHONY: help figures test test-browser verify tightest mutate audited bench audit docs lint
