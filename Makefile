# `make help` lists the targets. All but `all`, `install` and `uninstall` first install the programs that they need, as root on Debian 12.

.PHONY: all help demo test bench bench-quick bench-micro bench-programs fuzz soak install uninstall prerequisites FORCE

all: target/release/stableblk ## build the program, and install nothing (the default)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 16

# where scripts/install-prerequisites unpacks programs
CACHE = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stableblk

# seconds that each fuzz target and the soak run, and messages of the soak's front-ends
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
SOAK_MESSAGES ?= 1000000
# seconds of the load under which `make bench` watches memory
MEMORY_SECONDS ?= 600

demo: prerequisites ## show the defect and the cure with a real guest
	cargo build --release --locked -p stableblk -p demo
	cargo run --release --locked --quiet -p demo

test: prerequisites ## check format, lints and licences, and run all tests
	cargo fmt --all --check
	cd tests/guest/programs && cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --locked -p stableblk --features bench-null -- -D warnings
	cd tests/guest/programs && cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked
	PATH="$$PATH:$(CACHE)/cargo-deny/bin" cargo deny --log-level error check licenses bans sources
	cargo test --workspace --locked --no-fail-fast
	cd tests/guest/programs && cargo test --locked

# A target directory of its own: the program that is shipped has no null device.
BENCH = target/bench/release/stableblk-bench

bench-programs: prerequisites
	cargo build --release --locked --target-dir target/bench -p stableblk --features bench-null
	cargo build --release --locked --target-dir target/bench -p stableblk-bench

bench: bench-programs ## measure what docs/performance.md is made of, in 2 hours
	$(BENCH) run --memory-seconds $(MEMORY_SECONDS)
	$(BENCH) sizes
	$(BENCH) report

bench-quick: bench-programs ## measure most of that shortly, in 10 minutes
	$(BENCH) run --extent quick --milliseconds 150 --warm-up-milliseconds 20 --long-milliseconds 1000 --rests 3 --rest-milliseconds 500 --memory-seconds 2 --output target/bench/quick.json
	$(BENCH) report target/bench/quick.json --page target/bench/performance.md

bench-micro: prerequisites ## measure guards, chains, the range lock and the request path
	cargo bench --locked -p stableblk-integrity --bench throughput
	cargo bench --locked -p stableblk-virtio --bench request
	cargo bench --locked -p stableblk --bench range_lock
	cargo bench --locked -p stableblk --features bench-null --bench path

fuzz: prerequisites ## run each fuzz target for FUZZ_SECONDS
	cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked --debug
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz integrity parse verify recover
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz backend worker request messages

soak: prerequisites ## run random loads for SOAK_SECONDS
	STABLEBLK_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --release --locked -p stableblk --test worker -- --nocapture
	STABLEBLK_MESSAGES=$(SOAK_MESSAGES) cargo test --release --locked -p stableblk --test messages -- --nocapture
	STABLEBLK_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --release --locked -p stableblk-integrity --test crash soak -- --nocapture

# For packages: `make install DESTDIR=... PREFIX=/usr`. The units and the description for management software name /usr/bin.
PREFIX ?= /usr
STABLEBLK ?= target/release/stableblk

install: $(STABLEBLK) ## install everything below DESTDIR and PREFIX (/usr)
	scripts/install-files install "$(STABLEBLK)" "$(DESTDIR)" "$(PREFIX)"

uninstall: ## remove what `install` has installed there
	scripts/install-files uninstall "$(DESTDIR)" "$(PREFIX)"

target/release/stableblk: FORCE
	cargo build --release --locked -p stableblk

FORCE:

prerequisites: ## install the programs that the other targets need
	scripts/install-prerequisites
