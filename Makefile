# safe-modprobe. `make help` says what there is.

PYTHON  ?= /usr/bin/python3
DESTDIR ?=
prefix  ?= /usr
sbindir ?= $(prefix)/sbin

LIBDIR = $(prefix)/lib/safe-modprobe
unitdir = $(prefix)/lib/systemd/system
PACKAGE = $(DESTDIR)$(LIBDIR)/safe_modprobe
BUILD = build/$(notdir $(PYTHON))
# Where this Python keeps the distribution's packages (tomli): Debian has a scheme of its own.
PURELIB = $(shell $(PYTHON) -c "import sysconfig as s; \
	print(s.get_path('purelib', 'deb_system' if 'deb_system' in s.get_scheme_names() else s.get_default_scheme()))")

# All that a package is made from.
SOURCES = safe_modprobe policy.d packaging docs setup.py pyproject.toml Makefile README.md LICENSE
# What is written into scripts and units.
PLACES = -e 's|@PYTHON@|$(PYTHON)|; s|@LIBDIR@|$(LIBDIR)|; s|@PURELIB@|$(PURELIB)|'

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

VENV = .cache/venv/bin/python3
SUITE ?= bookworm

# The first Python that has an shtab, and rather one that knows fish as well (1.8 or newer).
SHTAB = $(firstword $(foreach name,complete_fish complete,$(foreach python,$(PYTHON) $(wildcard $(VENV)),$(shell \
	$(python) -c 'from shtab import $(name)' 2>/dev/null && echo $(python)))))
# The day in the manual's pages: the sources' own, so that the same sources make the same pages.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y docs/man/generate.py)
share = $(DESTDIR)$(prefix)/share

.PHONY: all build man completions install install-man install-completions install-monitoring install-systemd deb rpm \
	demo test test-unit test-packages test-boot kernel test-kernel bench survey call-sites setup clean help

all: build

help:
	@echo 'make demo       a stock kernel in QEMU: a user and root ask for the same modules'
	@echo 'make test       every test, real kernels included'
	@echo 'make test-packages  the packages and the role for a fleet, made, judged and installed: make test goes without'
	@echo 'make test-boot  whole systems, rebooted, with the Debian package: make test goes without'
	@echo 'make test-unit  the tests of our code alone, without a kernel: the loop for a desk'
	@echo 'make kernel SUITE=bookworm  a small kernel of that suite with the series in packaging/kernel, in .cache'
	@echo 'make test-kernel SUITE=bookworm  what such a kernel tells the helper, and what follows from it'
	@echo 'make bench      the speed of the helper, as ratios'
	@echo 'make survey     KERNEL_SRC=… every request_module() of a tree of Linux, and what the series names there'
	@echo 'make man        the manual, by scdoc, in build/man'
	@echo 'make completions  for bash, zsh and fish, by shtab, in build/completions'
	@echo 'make install    DESTDIR=… prefix=/usr PYTHON=/usr/bin/python3'
	@echo 'make deb        the Debian package, in build/deb'
	@echo 'make rpm        the RPM packages, in build/rpm'
	@echo 'make clean      remove what was built; the cache of kernels stays (rm -r .cache)'

build:
	$(PYTHON) setup.py -q build_ext --build-lib $(BUILD)/lib --build-temp $(BUILD)/temp

man: build
	$(PYTHON) docs/man/generate.py build/man $(BUILD)/lib/safe_modprobe

completions: build
	$(if $(SHTAB),,@echo 'no Python with shtab is here; make setup brings one' >&2; exit 1)
	$(SHTAB) packaging/completions.py build/completions $(BUILD)/lib/safe_modprobe

# Byte code is not checked against the sources at every start: what is installed is what runs, and the same
# sources install the same bytes.
install: build install-man install-completions install-monitoring install-systemd
	install -d $(PACKAGE) $(DESTDIR)$(sbindir) $(DESTDIR)$(LIBDIR)/policy.d $(DESTDIR)$(LIBDIR)/tests.d
	cd safe_modprobe && find . '(' -name '*.py' -o -name '*.jinja' ')' -exec install -D -m 644 {} $(abspath $(PACKAGE))/{} \;
	install -m 644 $(BUILD)/lib/safe_modprobe/*.so $(PACKAGE)
	install -m 644 policy.d/*.toml $(DESTDIR)$(LIBDIR)/policy.d
	install -m 644 policy.d/tests.d/*.toml $(DESTDIR)$(LIBDIR)/tests.d
	install -d $(DESTDIR)$(prefix)/share/safe-modprobe/examples/tests.d
	install -m 644 policy.d/examples/*.toml $(DESTDIR)$(prefix)/share/safe-modprobe/examples
	install -m 644 policy.d/examples/tests.d/*.toml $(DESTDIR)$(prefix)/share/safe-modprobe/examples/tests.d
	$(PYTHON) -B -c 'import json; from safe_modprobe.admin.policy.json_schema import json_schema; \
		print(json.dumps(json_schema(), indent=2))' > $(DESTDIR)$(prefix)/share/safe-modprobe/policy.schema.json
	for name in $(sbindir)/safe-modprobe $(sbindir)/safe-modprobectl $(prefix)/libexec/safe-modprobe/boot; do \
		sed $(PLACES) packaging/$$(basename $$name).in > $(BUILD)/script && \
		install -D -m 755 $(BUILD)/script $(DESTDIR)$$name || exit 1; done
	$(PYTHON) -m compileall -q -f --invalidation-mode unchecked-hash $(if $(DESTDIR),-s $(abspath $(DESTDIR)) -p /) $(PACKAGE)

# With the tool they are made anew; without it, what was made before is taken.
install-man: build
	@if command -v scdoc >/dev/null; then $(MAKE) --no-print-directory -s man; fi
	@if [ -e build/man/safe-modprobe.8 ]; then \
		install -d $(share)/man/man5 $(share)/man/man8 && install -m 644 build/man/*.5 $(share)/man/man5 && \
		install -m 644 build/man/*.8 $(share)/man/man8; \
	else echo 'without the manual: scdoc is not installed'; fi

install-completions: build
	@if [ -n '$(SHTAB)' ]; then $(MAKE) --no-print-directory -s completions; fi
	@if [ -e build/completions/bash/safe-modprobectl ]; then \
		install -D -m 644 -t $(share)/bash-completion/completions build/completions/bash/safe-modprobectl && \
		install -D -m 644 -t $(share)/zsh/site-functions build/completions/zsh/_safe-modprobectl && \
		if [ -e build/completions/fish ]; then \
			install -D -m 644 -t $(share)/fish/vendor_completions.d build/completions/fish/safe-modprobectl.fish; fi; \
	else echo 'without completions: no Python here has shtab'; fi

install-systemd:
	install -D -m 755 -t $(DESTDIR)$(prefix)/libexec/safe-modprobe packaging/own-kernel packaging/watch
	rm -rf $(BUILD)/units
	install -d $(BUILD)/units $(DESTDIR)$(unitdir)
	cp $(wildcard $(addprefix packaging/systemd/*.,path service timer)) $(BUILD)/units
	sed -i $(PLACES) $(BUILD)/units/*
	install -m 644 $(BUILD)/units/* $(DESTDIR)$(unitdir)
	install -D -m 644 packaging/systemd/safe-modprobe.tmpfiles $(DESTDIR)$(prefix)/lib/tmpfiles.d/safe-modprobe.conf
	install -D -m 644 packaging/systemd/safe-modprobe.preset $(DESTDIR)$(prefix)/lib/systemd/system-preset/80-safe-modprobe.preset

# From a copy of the sources, since debian/ has to be at their top.
deb:
	@if ! command -v dpkg-checkbuilddeps >/dev/null; then lacking='dpkg-dev'; \
	elif ! said=$$(LC_ALL=C dpkg-checkbuilddeps packaging/debian/control 2>&1); then lacking=$${said##*: }; fi; \
	if [ -n "$$lacking" ]; then \
		echo "make deb: not installed: $$lacking; 'apt-get build-dep ./packaging' installs all that it needs" >&2; exit 1; fi
	rm -rf build/deb
	mkdir -p build/deb/source
	tar -c --exclude=__pycache__ --exclude='*.so' $(SOURCES) | tar -x -C build/deb/source
	cp -R packaging/debian build/deb/source
	cd build/deb/source && env -u SOURCE_DATE_EPOCH dpkg-buildpackage --build=binary --no-sign

# The catalog counts from `journalctl --update-catalog` on, which a package has as its trigger.
install-monitoring:
	install -D -m 644 -t $(DESTDIR)$(prefix)/lib/systemd/catalog packaging/journal/safe-modprobe.catalog
	install -D -m 644 -t $(share)/safe-modprobe/prometheus packaging/prometheus/safe-modprobe.rules.yml
	install -D -m 644 -t $(share)/safe-modprobe/grafana packaging/grafana/safe-modprobe.json

# Where rpm knows nothing of systemd and Python, it is not Fedora: it gets the macros here, and finds no package of what
# builds, since the machine's packages are not rpm's.
RPM_ELSEWHERE = $(if $(shell rpm --eval '%{!?_unitdir:elsewhere}'),--nodeps --load packaging/rpm/macros.elsewhere)
rpm:
	rm -rf build/rpm
	mkdir -p build/rpm
	tar -cz --exclude=__pycache__ --exclude='*.so' --transform 's|^|safe-modprobe-$(VERSION)/|' \
		--sort=name --owner=0 --group=0 --mtime=@$(SOURCE_DATE_EPOCH) -f build/rpm/safe-modprobe-$(VERSION).tar.gz $(SOURCES)
	MAKEFLAGS='VENV=$(abspath $(VENV))' rpmbuild -ba --quiet $(RPM_ELSEWHERE) \
		--define '_topdir $(abspath build/rpm)/work' --define '_sourcedir $(abspath build/rpm)' \
		--define '_rpmdir $(abspath build/rpm)' --define '_srcrpmdir $(abspath build/rpm)' \
		--define '_rpmfilename %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' packaging/rpm/safe-modprobe.spec
	rm -r build/rpm/work

setup:
	@tests/setup

demo: setup
	@$(VENV) -m tests.vm.demo $(ARGS)

# Tests are what start Python a thousand times: byte code is kept, whatever the environment says, or each start compiles
# all that it imports, and each process of pytest writes every assertion anew.
test test-unit: export PYTHONDONTWRITEBYTECODE =

test: setup
	$(VENV) -m pytest $(ARGS)

test-packages:
	@tests/setup packages
	$(VENV) -m pytest tests/packages $(ARGS)

test-boot:
	@tests/setup packages
	$(VENV) -m pytest tests/boot $(ARGS)

test-unit: setup
	$(VENV) -m pytest -n 3 --dist worksteal tests/unit $(ARGS)

kernel:
	@tests/setup kernel
	@$(VENV) -m tests.kernel.build $(SUITE)

test-kernel:
	@tests/setup kernel
	$(VENV) -m pytest tests/kernel/test_series.py tests/kernel/test_call_sites.py tests/kernel/machines/$(SUITE)-patched $(ARGS)

bench: setup
	$(VENV) bench/bench.py

SURVEY = PYTHONPATH=packaging/kernel $(VENV) -B -m survey

survey: setup
	$(if $(KERNEL_SRC),,@echo 'KERNEL_SRC is not set; run make survey KERNEL_SRC=DIR with the top of a Linux tree' >&2; exit 1)
	@$(SURVEY) '$(KERNEL_SRC)' $(ARGS)

# The tables of docs/, from the sources of three releases.
call-sites: setup
	@mkdir -p build; for suite in bookworm trixie sid; do \
		tree=$$($(VENV) -m tests.vm.sources $$suite) && \
		$(SURVEY) --markdown $(ARGS) "$$tree" >build/call-sites.md && \
		mv build/call-sites.md docs/call-sites/$$(make -s -C "$$tree" kernelversion | cut -d. -f1-2).md || exit 1; done

clean:
	rm -rf build safe_modprobe/*.so
	find . -path ./.cache -prune -o -name __pycache__ -exec rm -rf {} +
