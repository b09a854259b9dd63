.PHONY: install test fast lint format
install:
	python -m pip install -e '.[dev]'
test:
	python -m pytest
fast:
	python -m pytest -m 'not slow'
lint:
	ruff check .
	ruff format --check .
	mypy
	lint-imports
format:
	ruff check --fix .
	ruff format .
