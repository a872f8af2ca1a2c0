# `make` alone lists the verbs. Targets install what they need: nothing has to be done by hand.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
STATIC_TARGET := x86_64-unknown-linux-gnu
# The image's binaries: `release` for the image, `quick` (built in half the time) for the test of its deployment.
STATIC_PROFILE ?= release
STATIC_DIR = target/$(STATIC_TARGET)/$(STATIC_PROFILE)
BINARIES := -p smartproxy -p networkproxy -p proxyctl

# Knobs: make sim SEEDS=100000, make chaos ROUNDS=300, make soak SECONDS_IDLE=600, make bench-holds LIVE=100000
SEEDS ?= 5000
ROUNDS ?= 300
SECONDS_IDLE ?= 600
LIVE ?= 100000
# make bench QUICK=1 ONLY=W3,memory SKIP_PEERS=1 BENCH_ARGS='--rounds 5'; the page is written by a full run of release binaries alone
BENCH_PROFILE ?= release
BENCH_DIR = target/$(if $(filter dev,$(BENCH_PROFILE)),debug,$(BENCH_PROFILE))
# smartproxy without its books, which a full run measures them against.
STUBBED = target/stubbed
BENCH_WRITE = $(if $(QUICK)$(ONLY)$(SKIP_PEERS)$(BENCH_ARGS)$(filter-out release,$(BENCH_PROFILE)),,--write docs/performance.md)

.PHONY: help
help: ## List the verbs.
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the three programs (development profile).
	$(CARGO) build --locked $(BINARIES)

.PHONY: run
run: build ## Start both processes on their embedded defaults; Ctrl-C drains and stops them.
	@echo "https://127.0.0.1:8443 (self-signed) and http://127.0.0.1:8080 answer with the status page."
	@echo "State: target/debug/proxyctl list, or grpcurl -plaintext 127.0.0.1:7800 list"
	@trap '' INT TERM; \
	 (trap - INT TERM; exec target/debug/smartproxy) & front=$$!; \
	 (trap - INT TERM; exec target/debug/networkproxy) & inner=$$!; \
	 trap 'kill -TERM $$front $$inner 2>/dev/null' INT TERM; \
	 while kill -0 $$front 2>/dev/null || kill -0 $$inner 2>/dev/null; do wait; done

# Everything that tests start or run, chosen alike everywhere: another choice of packages would build a third of the
# libraries once more, with other features. The ledger's own tests are apart: they plant faults, which is a feature too.
TESTED := --workspace --exclude ledger
.PHONY: testable
testable:
	$(CARGO) build --locked $(TESTED) --bins --tests

.PHONY: test
test: testable clients ## Run every test but the long ones.
	$(CARGO) test --locked $(TESTED)
	$(CARGO) test --locked -p ledger

.PHONY: lint
lint: components ## Formatting, clippy, documentation: no warning passes.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

.PHONY: sim
sim: ## Simulate the ledgers over SEEDS seeds; LEDGER_SEED=n replays one.
	LEDGER_SEEDS=$(SEEDS) $(CARGO) test --locked -p ledger --test simulation two_processes

.PHONY: chaos
chaos: testable clients ## ROUNDS random crashes, stops and cuts of the real processes under load.
	CHAOS_ROUNDS=$(ROUNDS) $(CARGO) test --locked $(TESTED) --test cases chaos -- --ignored --nocapture

.PHONY: soak
soak: testable clients ## Thousands of idle bridged connections for SECONDS_IDLE; memory per connection.
	SOAK_SECONDS=$(SECONDS_IDLE) $(CARGO) test --locked $(TESTED) --test cases soak -- --ignored --nocapture

.PHONY: bench-micro
bench-micro: ## Micro-benchmarks of the pure functions on the hot path.
	$(CARGO) bench --locked -p ledger -p config -p control -p runtime \
	  --bench books --bench routes --bench codec --bench preface -- \
	  --noplot --warm-up-time 0.3 --measurement-time 1 --sample-size 20

.PHONY: bench-holds
bench-holds: ## The longest holds of the books at LIVE connections, and the control channel's cost by rate.
	LIVE=$(LIVE) $(CARGO) bench --locked -p ledger --bench holds
	$(CARGO) bench --locked -p control --bench channel

.PHONY: bench
bench: peers $(if $(filter dev,$(BENCH_PROFILE)),testable) ## What work costs beside HAProxy and nginx; QUICK=1, ONLY=W3,memory, SKIP_PEERS=1.
	$(if $(BENCH_WRITE),$(CARGO) build --locked --profile $(BENCH_PROFILE) -p smartproxy --features stubbed \
	  && mkdir -p $(STUBBED) && mv $(BENCH_DIR)/smartproxy $(STUBBED)/)
	$(if $(filter dev,$(BENCH_PROFILE)),,$(CARGO) build --locked --profile $(BENCH_PROFILE) $(BINARIES) -p bench)
	$(BENCH_DIR)/bench run --bin-dir $(BENCH_DIR) $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) \
	  $(if $(SKIP_PEERS),--peers none) $(if $(BENCH_WRITE),--stubbed $(STUBBED)) $(BENCH_WRITE) $(BENCH_ARGS)

.PHONY: static
static: ## Static glibc binaries for the container image.
	env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS \
	  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS='-C target-feature=+crt-static' \
	  $(CARGO) build --profile $(STATIC_PROFILE) --locked --target $(STATIC_TARGET) $(BINARIES)

.PHONY: image
image: static ## The container image, from scratch.
	deploy/stage.sh $(STATIC_DIR) target/image
	DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0 docker-compose -f deploy/docker-compose.yml build

.PHONY: compose-test
compose-test: STATIC_PROFILE := quick
compose-test: static testable ## Drive the docker-compose deployment with a real engine (needs root).
	BIN_DIR=$(STATIC_DIR) REFLECT=target/debug/reflect tests/compose/run.sh

# Third-party clients of the tests; Debian's packages.
.PHONY: clients
clients:
	@missing=""; \
	 command -v openssl >/dev/null || missing="$$missing openssl"; \
	 command -v curl >/dev/null || missing="$$missing curl"; \
	 if [ -n "$$missing" ]; then \
	   as_root=""; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	   $$as_root apt-get update -q && DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -qy $$missing; \
	 fi

# What `make bench` measures itself against, and h2load; Debian's packages. What cannot be had is left out, and said.
.PHONY: peers
peers:
	@missing=""; \
	 command -v haproxy >/dev/null || missing="$$missing haproxy"; \
	 command -v nginx >/dev/null && [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] \
	   || missing="$$missing nginx libnginx-mod-stream"; \
	 command -v h2load >/dev/null || missing="$$missing nghttp2-client"; \
	 if [ -n "$$missing" ]; then \
	   as_root=""; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	   $$as_root apt-get update -q && DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -qy $$missing \
	     || echo "could not install:$$missing"; \
	 fi

.PHONY: components
components:
	@$(CARGO) fmt --version >/dev/null 2>&1 && $(CARGO) clippy --version >/dev/null 2>&1 \
	  || rustup component add rustfmt clippy
