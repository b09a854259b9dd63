.PHONY: install test fast lint format docs
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
docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict
