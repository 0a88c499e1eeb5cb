# safe-modprobe. `make help` says what there is.

PYTHON  ?= /usr/bin/python3
DESTDIR ?=
prefix  ?= /usr

LIBDIR = $(prefix)/lib/safe-modprobe
PACKAGE = $(DESTDIR)$(LIBDIR)/safe_modprobe
BUILD = build/$(notdir $(PYTHON))
# Where this Python keeps the distribution's packages (tomli): Debian has a scheme of its own.
PURELIB = $(shell $(PYTHON) -c "import sysconfig as s; \
	print(s.get_path('purelib', 'deb_system' if 'deb_system' in s.get_scheme_names() else s.get_default_scheme()))")

VENV = .cache/venv/bin/python3

.PHONY: all build install demo test test-unit bench setup clean help

all: build

help:
	@echo 'make demo       a stock kernel in QEMU: a user and root ask for the same modules'
	@echo 'make test       every test, real kernels included'
	@echo 'make test-unit  the tests that need no kernel: the loop for a desk'
	@echo 'make bench      the speed of the helper, as ratios'
	@echo 'make install    DESTDIR=… prefix=/usr PYTHON=/usr/bin/python3'
	@echo 'make clean      remove what was built; the cache of kernels stays (rm -r .cache)'

build:
	$(PYTHON) setup.py -q build_ext --build-lib $(BUILD)/lib --build-temp $(BUILD)/temp

# Byte code is not checked against the sources at every start: what is installed is what runs, and the same
# sources install the same bytes.
install: build
	install -d $(PACKAGE) $(DESTDIR)$(prefix)/sbin $(DESTDIR)$(LIBDIR)/policy.d $(DESTDIR)$(LIBDIR)/tests.d
	cd safe_modprobe && find . '(' -name '*.py' -o -name '*.jinja' ')' -exec install -D -m 644 {} $(abspath $(PACKAGE))/{} \;
	install -m 644 $(BUILD)/lib/safe_modprobe/*.so $(PACKAGE)
	install -m 644 policy.d/*.toml $(DESTDIR)$(LIBDIR)/policy.d
	install -m 644 policy.d/tests.d/*.toml $(DESTDIR)$(LIBDIR)/tests.d
	install -d $(DESTDIR)$(prefix)/share/safe-modprobe/examples/tests.d
	install -m 644 policy.d/examples/*.toml $(DESTDIR)$(prefix)/share/safe-modprobe/examples
	install -m 644 policy.d/examples/tests.d/*.toml $(DESTDIR)$(prefix)/share/safe-modprobe/examples/tests.d
	for name in safe-modprobe safe-modprobectl; do \
		sed -e 's|@PYTHON@|$(PYTHON)|; s|@LIBDIR@|$(LIBDIR)|; s|@PURELIB@|$(PURELIB)|' packaging/$$name.in \
			> $(BUILD)/$$name && install -m 755 $(BUILD)/$$name $(DESTDIR)$(prefix)/sbin/$$name || exit 1; done
	$(PYTHON) -m compileall -q -f --invalidation-mode unchecked-hash $(if $(DESTDIR),-s $(abspath $(DESTDIR)) -p /) $(PACKAGE)

setup:
	@tests/setup

demo: setup
	@$(VENV) -m tests.vm.demo $(ARGS)

test: setup
	$(VENV) -m pytest $(ARGS)

test-unit: setup
	$(VENV) -m pytest -n 3 --dist worksteal tests/unit $(ARGS)

bench: setup
	$(VENV) bench/bench.py

clean:
	rm -rf build safe_modprobe/*.so
	find . -path ./.cache -prune -o -name __pycache__ -exec rm -rf {} +
