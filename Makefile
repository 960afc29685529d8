.PHONY: help check lint types test slow

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

check: lint types test ## What CI runs

lint: ## Formatting and lint rules
	ruff format --check .
	ruff check .

types: ## Static types
	mypy

test: ## Every test that takes seconds, in two processes
	pytest -n 2 --dist loadfile

slow: ## Tests of minutes: Ray workers, torchrun, wheels in empty environments, a report in Chromium
	pytest -m slow
