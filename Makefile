PYTHON ?= python

.PHONY: check format test screenshots

check:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

test:
	$(PYTHON) -m pytest

screenshots:  # every picture of docs/screenshots, of the real app
	CXR_WRITE_SCREENSHOTS=1 $(PYTHON) -m pytest -m slow tests/browser/test_screenshots.py
