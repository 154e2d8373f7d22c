# The commands of the project; `make` alone lists them. Each first sees to the environment in $(VENV), which takes
# minutes the first time and a tenth of a second afterwards.

# The first Python of the supported range (3.11 to 3.13) on the path; `make PYTHON=python3.12 VENV=.venv-3.12 test` for
# another one, in an environment of its own.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && exit; \
	done; echo python3)
VENV ?= .venv
# Further arguments for the command behind a target: `make test ARGS='-k ulp'`, `make report ARGS=--quick`.
ARGS ?=

BIN := $(VENV)/bin
RUN := run.json
REPORT := report.html
# glibc gives freed memory back to the system or keeps it, by thresholds that it moves as it goes: one NumPy loss takes
# 530 or 153 µs accordingly. Fixed thresholds make timings comparable.
STEADY := MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TOP_PAD_=67108864

.DEFAULT_GOAL := help
.PHONY: help report test test-long check bench kill-matrix environment clean

help: ## list these commands
	@echo 'make TARGET [ARGS=…] [PYTHON=…] [VENV=…]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

report: environment ## judge every implementation, accuracy and speed, and write report.html
	@rm -f $(RUN); status=0; $(BIN)/xent accuracy --speed --json $(RUN) $(ARGS) || status=$$?; \
	if [ $$status -gt 1 ]; then exit $$status; fi; \
	$(BIN)/xent report $(RUN) -o $(REPORT) || exit $$?; \
	echo "report: $(REPORT)"; \
	if [ $$status -eq 1 ]; then \
		echo 'report: some implementation misses what it claims (above, and in the report)' >&2; exit 1; \
	fi

test: environment ## the tests, in minutes
	$(BIN)/python -m pytest -n auto -m 'not long' $(ARGS)

test-long: environment ## the tests that take long
	$(BIN)/python -m pytest -m long $(ARGS)

check: environment ## lint, format, types, imports, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_docs.py

kill-matrix: environment ## vet every candidate of the tests, which takes an hour, and write docs/kill_matrix.md
	$(BIN)/python tools/kill_matrix.py $(ARGS)

bench: environment ## the asv benchmarks on this commit, quickly; results under .asv/
	@test -f "$$HOME/.asv-machine.json" || $(BIN)/asv machine --yes >/dev/null
	PATH="$(abspath $(BIN)):$$PATH" $(STEADY) $(BIN)/asv run --quick --show-stderr --launch-method spawn \
		--environment existing:$(abspath $(BIN)/python) --set-commit-hash "$$(git rev-parse HEAD)" $(ARGS)

environment: ## make or update the environment that all of these run in
	@$(PYTHON) tools/make_environment.py $(VENV)

clean: ## remove what make made: the environment, caches, results
	rm -rf $(VENV) $(VENV).lock $(RUN) $(REPORT) .asv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
