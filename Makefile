# Two commands matter: `make book` and `make test`. `make help` tells the rest.

PYTHON ?= python3
JOBS ?= 2
PROFILE ?= quick
BIN := .venv/bin
READY := .venv/.ready
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help book test lint unit pages refresh bench map launches serve lock clean

help: ## Say what each target does
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

book: $(READY) ## Execute every chapter on the embedded digits and render the book into _build/html
	$(BIN)/mpkit book --jobs $(JOBS) --profile $(PROFILE)

test: lint unit pages ## Prove that it is right: lint, types, tests, every page re-executed, the site in a browser

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY) ## Run the tests of mpkit, of the pages' structure and of the rendered site
	$(BIN)/pytest tests -n $(JOBS) --dist loadgroup

pages: $(READY) ## Execute every page and compare with the outputs stored in it
	$(BIN)/pytest --nbval --nbval-current-env book -n $(JOBS) --dist loadfile

refresh: $(READY) ## Execute the committed notebooks in place and scrub what differs between equal runs
	$(BIN)/mpkit refresh --jobs $(JOBS)

bench: $(READY) ## Time attacks over the bare loop, beside other libraries where they are installed
	$(BIN)/python -m benchmarks.peers.speed

map: ## Draw the rooms and what imports what, in CONTRIBUTING.md
	$(PYTHON) tests/helpers/rooms.py --write

serve: $(READY) ## Show the rendered book on this machine's port 8000
	$(BIN)/python -m http.server 8000 --bind 127.0.0.1 --directory _build/html

launches: $(READY) ## Count what a step of each attack launches on a GPU, in CONTRIBUTING.md
	PYTHONPATH=tests $(BIN)/python -m helpers.launches --write

lock: ## Pin every dependency anew in requirements.lock (needs uv)
	echo "setuptools>=77" | uv pip compile --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --quiet --extra book --extra test \
		pyproject.toml - -o requirements.lock
	sed -i '1i # for Python >=3.11' requirements.lock

clean: ## Delete everything that was built (not .venv)
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
