# Each recipe is one line; scripts hold what is longer. One target directory, one profile (release), so libtorch's
# C++ binding is compiled once.
export CARGO_BUILD_JOBS ?= $(shell nproc)
CARGO ?= cargo

.PHONY: demo build programs test test-gpu kubernetes object-store ordeal permits lint charts libtorch python-torch foreign-teachers bench clean-demo

demo: build ## train a teacher, serve it over HTTP, distil a student from it, on real images
	scripts/demo.sh

build: libtorch ## both binaries in target/release
	$(CARGO) build --release --locked --workspace --bins

# Programs and tests in one build: built apart, they would take other features of the same crates, and most twice.
programs: libtorch ## all programs and tests, built
	$(CARGO) build --release --locked --workspace --bins --tests

test: programs ## every test
	$(CARGO) test --release --locked --workspace

test-gpu: build ## what needs a card, on a machine that has one; STILLHOUSE_NCCL names NCCL 2.30 or later (docs/gpu.md)
	scripts/test-gpu.sh

kubernetes: build ## jobs on a real control plane, built from Go modules (minutes the first time); needs root, Go, etcd, iproute2
	scripts/control-plane.sh && scripts/object-store.sh && scripts/kueue.sh
	STILLHOUSE_EXPECT_KUBERNETES=1 STILLHOUSE_EXPECT_KUEUE=1 $(CARGO) test --release --locked -p stillhouse-tests --test kubernetes

object-store: ## a server that speaks S3, for tests, built from Go modules (a minute or two the first time); needs Go
	scripts/object-store.sh

ordeal: build ## ten minutes of random kills, cuts and full disks around whole jobs (docs/ordeal.md)
	$(CARGO) run --release --locked -p stillhouse-tests --bin ordeal

permits: ## ten million random schedules of the permit protocol (minutes)
	$(CARGO) run --release --locked -p stillhouse-ledger --example permit_schedules -- 10000000

lint: libtorch ## formatting, clippy, licences and sources of dependencies
	scripts/lint.sh

charts: ## Helm charts, manifests and Dockerfiles, and faults that these checks must find; no cluster is needed
	scripts/charts.sh check && scripts/charts.sh faults

libtorch: ## libtorch 2.11.0 in .libtorch, unless LIBTORCH names one
	scripts/libtorch.sh

python-torch: ## what `import torch` needs: the benchmarks' peers and the TorchScript test use it
	scripts/libtorch.sh python

foreign-teachers: python-torch ## the client against MLServer and KServe, installed here (200 MB)
	scripts/foreign-teachers.sh && STILLHOUSE_EXPECT_FOREIGN=1 $(CARGO) test --release --locked -p stillhouse-teacher --test foreign

bench: build python-torch ## the figures of docs/benchmarks.md (hours); see that page for single ones
	$(CARGO) run --release --locked -p stillhouse-benchmarks -- all

clean-demo:
	rm -rf demo-out
