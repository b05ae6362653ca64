# make demo   sets up, builds, and shows the main job on a container of its own
# make test   sets up, and runs everything

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# Without half a megabyte of HTTP/2, which no engine and no mirror needs.
TAGS     = nethttpomithttp2
LDFLAGS  = -s -w -X main.release=$(VERSION)

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build demo test check image helper bench bench-image setup setup-test clean

build:
	CGO_ENABLED=0 $(GO) build -tags $(TAGS) -trimpath -ldflags '$(LDFLAGS)' -o build/cartsshd ./cmd/cartsshd

PROFILE ?= std

# The list, and all that makes an image of it.
image: build/tools.img

# An image of another profile is another image.
build/profile-$(PROFILE): | build
	rm -f build/profile-*
	touch $@

build/tools.img: build/profile-$(PROFILE) $(wildcard image/*.go image/packages image/files/* image/files/wrap/* image/nss/nss_*) | build setup
	build/cartsshd image build -p $(PROFILE) -o $@

demo: build setup build/tools.img
	build/cartsshd demo --image build/tools.img

# What building the image and the demo need that a bare Debian lacks.
setup:
	@sh test/setup.sh demo

setup-test:
	@sh test/setup.sh test

# Everything: end to end as root too. CARTSSHD_NEED_ALL=1 makes a missing need
# a failure instead of a skip.
test: export CARTSSHD_NEED_ALL = 1
test: setup-test build build/tools.img check
	$(GO) test -race -p 1 -timeout 25m ./...

check:
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	sh test/govulncheck.sh $(GO) $(GOVULNCHECK)

# The helper's objects are kept with the sources, so that building needs no C
# compiler. A test builds them anew and compares.
helper:
	cd internal/nsexec && $(GO) generate
	cd image && $(GO) generate

# QUICK=1: two minutes instead of ten.
bench: build setup-test build/tools.img
	$(GO) run ./test/bench -cartsshd build/cartsshd -image build/tools.img -json bench.json

# Times and sizes of the profiles, and of a first prompt. Four minutes.
bench-image: setup-test
	$(GO) run ./test/imagebench

clean:
	rm -rf build bench.json
