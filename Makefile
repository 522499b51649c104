.PHONY: help install run test lint bench build

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install:  ## install what the app, the tests and the linters need
	pip install -r requirements-dev.txt

run:  ## start the app
	streamlit run streamlit_app.py

test:  ## run all tests, the linters among them
	pytest

lint:  ## format, lint, check types and layers
	ruff check --fix .
	ruff format .
	mypy
	lint-imports

bench:  ## compare with the alternatives; writes benchmarks/results.md
	python -m benchmarks

build:  ## build the sdist and the wheel into dist/
	python -m build
