# tmemd: build, run, test. `make run` and `make test` need nothing installed by
# hand but Go, make and, for the tests, a Debian system with apt-get.

GO          ?= go
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
KERNELS     ?= 6.1,6.12
PACKAGES    := qemu-system-x86 qemu-utils busybox-static nbd-client nbdkit libnbd-bin \
               python3-libnbd fio xz-utils util-linux mount e2fsprogs gcc libc6-dev systemd \
               iproute2 prometheus chromium lintian buildah openssl curl kmod procps perl-base
# For tests that make name spaces and mounts.
AS_ROOT     := $(if $(filter-out 0,$(shell id -u)),-exec 'sudo -n -E env PATH=$(PATH)')

.PHONY: all build deb run test lint unit race interop e2e e2e-all fuzz bench bench-nbd bench-memory bench-dedup bench-drain bench-remote bench-observe soak soak-resize soak-ramster crash deps clean

all: build

build: ## both commands, static, in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/tmemd ./cmd/tmemctl

deb: build ## dist/tmemd_VERSION_amd64.deb
	GO=$(GO) deploy/debian/build.sh $(VERSION)

run: build ## a swap export in ./var; ARGS='--size 4GiB …' for more
	bin/tmemd --state-dir var $(ARGS)

test: lint race interop e2e ## every test

lint: ## gofmt, vet, staticcheck; the import-direction test is in race
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags 'interop e2e memory' ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(STATICCHECK) -tags 'interop e2e memory' ./deploy/...

unit: ## quick: no race detector, no outside programs
	$(GO) test ./...

race: deps ## unit, model and conformance tests under the race detector
	$(GO) test -race -timeout 15m ./...
	$(GO) test -tags purego ./backends/pagelz4 # with bounds checks

interop: deps build ## NBD clients that others wrote, faults on real file systems, systemd on its units, the Debian package from install to purge, what the documentation says to type
	$(GO) test -tags interop -count=1 -timeout 15m -v ./deploy/interop ./deploy/systemd
	$(GO) test -tags interop -count=1 -timeout 15m -v $(AS_ROOT) ./deploy/isolated ./deploy/debian ./deploy/examples ./deploy/container ./deploy/readme
	cd deploy/kubernetes && $(GO) vet ./... && $(GO) test -count=1 ./...

e2e: deps build ## stock Debian kernels, 6.1 and 6.12, swap through tmemd in a VM; three runs take turns with the kernels; one takes root
	TMEMD_VM_KERNEL=$(KERNELS) $(GO) test -tags e2e -count=1 -timeout 20m -v ./deploy/vm

e2e-all: deps build ## the same, every run on each kernel
	TMEMD_VM_ALL=1 TMEMD_VM_KERNEL=$(KERNELS) $(GO) test -tags e2e -count=1 -timeout 30m -v ./deploy/vm

fuzz: ## MINUTES for each target (default 1)
	deploy/fuzz.sh $(or $(MINUTES),1)

bench: ## fill an export with real page content and report
	$(GO) test -run '^$$' -bench . -benchmem ./deploy/bench ./tier ./backends/...

bench-nbd: deps build ## side by side with other NBD servers and zram, quiet and disturbed, and the targets
	$(GO) run ./deploy/bench -tmemd bin/tmemd

bench-memory: build ## memory for a page of a corpus of MIB MiB, and tmemctl estimate, beside a zram device; takes root
	$(GO) test -tags memory -count=1 -timeout 15m -v $(if $(filter-out 0,$(shell id -u)),-exec 'sudo -n MIB=$(MIB)') ./deploy/memory

bench-dedup: deps ## what storing identical pages once would save: forked processes, guests, clones; takes root and the Debian packages python3-django, gunicorn and nodejs
	$(GO) run $(if $(filter-out 0,$(shell id -u)),-exec 'sudo -n -E') ./deploy/dedup

bench-drain: deps ## what unloading costs, beside fio and plain writes; what a store costs without a backend
	$(GO) run ./deploy/drainbench
	$(GO) test -run '^$$' -bench StoreWithoutBackend -benchtime 1x ./tier

bench-remote: deps ## other hosts' memory beside nbdkit and Redis, over loopback TCP; takes the Debian package redis-server
	$(GO) test -run '^$$' -bench Remote -benchtime 1x -timeout 15m ./deploy/remotebench

bench-observe: ## what it costs requests that metrics are scraped and the status page is open; six minutes
	$(GO) test -run '^$$' -bench 'Observe|Dips' -benchtime 1x -timeout 15m ./deploy/observebench

soak: ## MINUTES of random requests, operators and faults, checked for linearizability
	SOAK_MINUTES=$(or $(MINUTES),10) $(GO) test -race -count=1 -timeout 0 -run TestLinearizable ./tier

soak-resize: ## 1 GiB of pool to a quarter and back under load, every byte verified
	RESIZE_MIB=1024 $(GO) test -count=1 -timeout 15m -v -run TestResizeUnderLoad ./tier

soak-ramster: ## ROUNDS (default 20) of the tests with donors that die, lie and are cut off, and MINUTES (default 5) of linearizability
	SOAK=$(or $(ROUNDS),20) $(GO) test -race -count=1 -timeout 0 -v -run 'TestNetwork|TestStorm|TestRestart' ./backends/ramster
	SOAK_MINUTES=$(or $(MINUTES),5) $(GO) test -race -count=1 -timeout 0 -run TestRamsterLinearizable ./tier

crash: ## KILLS of a daemon under load, and as many of one with disks, every page read back after each (default 1000)
	CRASH_KILLS=$(or $(KILLS),1000) $(GO) test -count=1 -timeout 0 -v -run 'TestKills|TestDiskKills' ./cmd/internal/crash

deps: ## Debian packages that the tests use
	@missing=; for p in $(PACKAGES); do \
		test "$$(dpkg-query -Wf '$${db:Status-Status}' $$p 2>/dev/null)" = installed || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing; \
	fi

clean:
	rm -rf bin dist .cache var
