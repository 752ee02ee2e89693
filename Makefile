# Every target first installs what it misses, as root on Debian 12.

.PHONY: demo test prerequisites

demo: prerequisites
	cargo build --release --locked -p stableblk -p demo
	cargo run --release --locked --quiet -p demo

test: prerequisites
	cargo fmt --all --check
	cd tests/guest/programs && cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cd tests/guest/programs && cargo clippy --locked -- -D warnings
	cargo deny --version >/dev/null 2>&1 || cargo install cargo-deny --locked --debug
	cargo deny --log-level error check licenses bans sources
	cargo test --workspace --locked

prerequisites:
	scripts/install-prerequisites
