# Build, install and test safe-modprobe. `make help` lists the targets.

PYTHON  ?= /usr/bin/python3
DESTDIR ?=
prefix  ?= /usr
sbindir ?= $(prefix)/sbin

LIBDIR = $(prefix)/lib/safe-modprobe
unitdir = $(prefix)/lib/systemd/system
PACKAGE = $(DESTDIR)$(LIBDIR)/safe_modprobe
BUILD = build/$(notdir $(PYTHON))
# Folder of the distribution's Python packages (tomli). Debian has its own install scheme for them.
PURELIB = $(shell $(PYTHON) -c "import sysconfig as s; \
	print(s.get_path('purelib', 'deb_system' if 'deb_system' in s.get_scheme_names() else s.get_default_scheme()))")

# All files that packages are built from.
SOURCES = safe_modprobe policy.d packaging docs setup.py pyproject.toml Makefile README.md LICENSE
# The placeholders in scripts and units, and their values.
PLACES = -e 's|@PYTHON@|$(PYTHON)|; s|@LIBDIR@|$(LIBDIR)|; s|@PURELIB@|$(PURELIB)|'

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

VENV = .cache/venv/bin/python3
SUITE ?= bookworm

# The first Python whose shtab supports fish (1.8 or newer), or else the first that has shtab at all.
SHTAB = $(firstword $(foreach name,complete_fish complete,$(foreach python,$(PYTHON) $(wildcard $(VENV)),$(shell \
	$(python) -c 'from shtab import $(name)' 2>/dev/null && echo $(python)))))
# The date in the manual pages is that of the sources, so that the same sources give the same pages.
export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y docs/man/generate.py)
share = $(DESTDIR)$(prefix)/share

.PHONY: all build man completions install install-man install-completions install-monitoring install-systemd deb rpm \
	demo test test-unit test-packages test-boot kernel test-kernel bench survey call-sites setup clean help

all: build

help:
	@echo 'make demo       boot a stock kernel in QEMU, where a user and root request the same modules'
	@echo 'make test       run all tests but test-packages, test-boot and test-kernel; some boot kernels'
	@echo 'make test-packages  build, lint and install the packages, and run the Ansible role'
	@echo 'make test-boot  install the Debian package on whole systems, and reboot them'
	@echo 'make test-unit  run the unit tests, which boot no kernel'
	@echo 'make kernel SUITE=bookworm  build a small kernel of that suite with the series in packaging/kernel, in .cache'
	@echo 'make test-kernel SUITE=bookworm  test what that kernel tells the helper, and the decisions that follow'
	@echo 'make bench      compare the speed of the helper with that of python3 and modprobe'
	@echo 'make survey     KERNEL_SRC=…  list every request_module() of a Linux tree, and what the series declares there'
	@echo 'make man        make the manual pages with scdoc, in build/man'
	@echo 'make completions  make completions for bash, zsh and fish with shtab, in build/completions'
	@echo 'make install    DESTDIR=… prefix=/usr PYTHON=/usr/bin/python3  install safe-modprobe'
	@echo 'make deb        build the Debian package, in build/deb'
	@echo 'make rpm        build the RPM packages, in build/rpm'
	@echo 'make clean      remove built files; kernels stay cached (rm -r .cache removes them)'

build:
	$(PYTHON) setup.py -q build_ext --build-lib $(BUILD)/lib --build-temp $(BUILD)/temp

man: build
	$(PYTHON) docs/man/generate.py build/man $(BUILD)/lib/safe_modprobe

completions: build
	$(if $(SHTAB),,@echo 'no Python with shtab found; run make setup to install one' >&2; exit 1)
	$(SHTAB) packaging/completions.py build/completions $(BUILD)/lib/safe_modprobe

# Unchecked hashes save Python a check of the sources at every start, and the same sources install the same bytes.
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

# Make the pages if scdoc is installed, or else install pages that were made before.
install-man: build
	@if command -v scdoc >/dev/null; then $(MAKE) --no-print-directory -s man; fi
	@if [ -e build/man/safe-modprobe.8 ]; then \
		install -d $(share)/man/man5 $(share)/man/man8 && install -m 644 build/man/*.5 $(share)/man/man5 && \
		install -m 644 build/man/*.8 $(share)/man/man8; \
	else echo 'the manual is not installed: scdoc is missing'; fi

install-completions: build
	@if [ -n '$(SHTAB)' ]; then $(MAKE) --no-print-directory -s completions; fi
	@if [ -e build/completions/bash/safe-modprobectl ]; then \
		install -D -m 644 -t $(share)/bash-completion/completions build/completions/bash/safe-modprobectl && \
		install -D -m 644 -t $(share)/zsh/site-functions build/completions/zsh/_safe-modprobectl && \
		if [ -e build/completions/fish ]; then \
			install -D -m 644 -t $(share)/fish/vendor_completions.d build/completions/fish/safe-modprobectl.fish; fi; \
	else echo 'completions are not installed: no Python has shtab'; fi

install-systemd:
	install -D -m 755 -t $(DESTDIR)$(prefix)/libexec/safe-modprobe packaging/own-kernel packaging/watch
	rm -rf $(BUILD)/units
	install -d $(BUILD)/units $(DESTDIR)$(unitdir)
	cp $(wildcard $(addprefix packaging/systemd/*.,path service timer)) $(BUILD)/units
	sed -i $(PLACES) $(BUILD)/units/*
	install -m 644 $(BUILD)/units/* $(DESTDIR)$(unitdir)
	install -D -m 644 packaging/systemd/safe-modprobe.tmpfiles $(DESTDIR)$(prefix)/lib/tmpfiles.d/safe-modprobe.conf
	install -D -m 644 packaging/systemd/safe-modprobe.preset $(DESTDIR)$(prefix)/lib/systemd/system-preset/80-safe-modprobe.preset

# dpkg-buildpackage needs debian/ at the top of the sources, so it runs in a copy of them.
deb:
	@if ! command -v dpkg-checkbuilddeps >/dev/null; then lacking='dpkg-dev'; \
	elif ! message=$$(LC_ALL=C dpkg-checkbuilddeps packaging/debian/control 2>&1); then lacking=$${message##*: }; fi; \
	if [ -n "$$lacking" ]; then \
		echo "make deb: not installed: $$lacking; 'apt-get build-dep ./packaging' installs all that it needs" >&2; exit 1; fi
	rm -rf build/deb
	mkdir -p build/deb/source
	tar -c --exclude=__pycache__ --exclude='*.so' $(SOURCES) | tar -x -C build/deb/source
	cp -R packaging/debian build/deb/source
	cd build/deb/source && env -u SOURCE_DATE_EPOCH dpkg-buildpackage --build=binary --no-sign

# journalctl uses the catalog after `journalctl --update-catalog`, which packages run as a trigger.
install-monitoring:
	install -D -m 644 -t $(DESTDIR)$(prefix)/lib/systemd/catalog packaging/journal/safe-modprobe.catalog
	install -D -m 644 -t $(share)/safe-modprobe/prometheus packaging/prometheus/safe-modprobe.rules.yml
	install -D -m 644 -t $(share)/safe-modprobe/grafana packaging/grafana/safe-modprobe.json

# An rpm without the macros of systemd and Python is not Fedora's, so load ours. --nodeps is needed there, because the
# build dependencies are not installed as RPM packages.
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

# The tests start Python a thousand times. Byte code must be cached, or each start compiles all imports again, and each
# process of pytest rewrites all assertions again.
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

# Update the tables of docs/call-sites from the kernel sources of three releases.
call-sites: setup
	@mkdir -p build; for suite in bookworm trixie sid; do \
		tree=$$($(VENV) -m tests.vm.sources $$suite) && \
		$(SURVEY) --markdown $(ARGS) "$$tree" >build/call-sites.md && \
		mv build/call-sites.md docs/call-sites/$$(make -s -C "$$tree" kernelversion | cut -d. -f1-2).md || exit 1; done

clean:
	rm -rf build safe_modprobe/*.so
	find . -path ./.cache -prune -o -name __pycache__ -exec rm -rf {} +
