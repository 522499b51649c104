.PHONY: help install run test fuzz lint lock bench build

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install:  ## install what the app, the tests and the linters need
	pip install -r requirements-dev.txt

run:  ## start the app
	streamlit run streamlit_app.py

test:  ## run all tests, the linters among them
	pytest

fuzz:  ## the long forms of the security tests (an hour); figures for docs/security.md
	python -m tests.security.fuzz_images
	python -m tests.security.fuzz_tables
	python -m tests.security.fuzz_checkpoints
	python -m tests.security.kills
	python -m tests.security.soak

lint:  ## format, lint, check types and layers
	ruff check --fix .
	ruff format .
	mypy
	lint-imports

lock:  ## pin everything that requirements.txt needs, with hashes, in requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
		--custom-compile-command "make lock" --output-file requirements.lock requirements.txt

bench:  ## compare with the alternatives; writes benchmarks/results.md
	python -m benchmarks

build:  ## build the sdist and the wheel into dist/
	python -m build
