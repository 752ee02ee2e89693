# Every target first installs the programs that it needs, as root on Debian 12.

.PHONY: demo test bench bench-quick bench-micro bench-programs fuzz soak install prerequisites FORCE

# where scripts/install-prerequisites unpacks programs
CACHE = $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stableblk

# seconds that each fuzz target and the soak run, and messages of the soak's front-ends
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
SOAK_MESSAGES ?= 1000000
# seconds of the load under which `make bench` watches memory
MEMORY_SECONDS ?= 600

demo: prerequisites
	cargo build --release --locked -p stableblk -p demo
	cargo run --release --locked --quiet -p demo

test: prerequisites
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

bench: bench-programs
	$(BENCH) run --memory-seconds $(MEMORY_SECONDS)
	$(BENCH) sizes
	$(BENCH) report

bench-quick: bench-programs
	$(BENCH) run --extent quick --milliseconds 150 --warm-up-milliseconds 20 --long-milliseconds 1000 --rests 3 --rest-milliseconds 500 --memory-seconds 2 --output target/bench/quick.json
	$(BENCH) report target/bench/quick.json --page target/bench/performance.md

bench-micro: prerequisites
	cargo bench --locked -p stableblk-integrity --bench throughput
	cargo bench --locked -p stableblk-virtio --bench request
	cargo bench --locked -p stableblk --bench range_lock
	cargo bench --locked -p stableblk --features bench-null --bench path

fuzz: prerequisites
	cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked --debug
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz integrity parse verify recover
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz backend worker request messages

soak: prerequisites
	STABLEBLK_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --release --locked -p stableblk --test worker -- --nocapture
	STABLEBLK_MESSAGES=$(SOAK_MESSAGES) cargo test --release --locked -p stableblk --test messages -- --nocapture
	STABLEBLK_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --release --locked -p stableblk-integrity --test crash soak -- --nocapture

# For packages: `make install DESTDIR=... PREFIX=/usr`. The units and the description for management software name /usr/bin.
PREFIX ?= /usr
STABLEBLK ?= target/release/stableblk
INSTALLED = $(DESTDIR)$(PREFIX)

install: $(STABLEBLK)
	install -D -m 755 $(STABLEBLK) $(INSTALLED)/bin/stableblk
	install -D -m 644 -t $(INSTALLED)/lib/systemd/system packaging/stableblk@.service packaging/stableblk@.socket packaging/stableblk-exporter.service packaging/stableblk-scrub@.service packaging/stableblk-scrub@.timer
	install -D -m 644 -t $(INSTALLED)/share/stableblk packaging/prometheus/stableblk.rules.yml packaging/prometheus/stableblk.scrape.yml packaging/grafana/stableblk.json
	install -D -m 644 -t $(INSTALLED)/share/qemu/vhost-user qemu-configs/50-stableblk.json
	install -d $(INSTALLED)/share/man/man1
	$(STABLEBLK) man $(INSTALLED)/share/man/man1

target/release/stableblk: FORCE
	cargo build --release --locked -p stableblk

FORCE:

prerequisites:
	scripts/install-prerequisites
