# `make` alone lists the verbs.
.DEFAULT_GOAL := help
CARGO ?= cargo

.PHONY: help
help: ## List the verbs.
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
