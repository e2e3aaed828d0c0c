# Thin and conventional: Cargo builds, scripts check, and this file gives both their usual names.
# Variables and targets are those of the GNU Coding Standards.  `./configure' may set
# the directories (it writes config.mk), and the command line overrides both.

prefix         = /usr/local
exec_prefix    = $(prefix)
bindir         = $(exec_prefix)/bin
libexecdir     = $(exec_prefix)/libexec
libdir         = $(exec_prefix)/lib
datarootdir    = $(prefix)/share
datadir        = $(datarootdir)
mandir         = $(datarootdir)/man
docdir         = $(datarootdir)/doc/guix-daemon
htmldir        = $(docdir)/html
infodir        = $(datarootdir)/info
sysconfdir     = /etc
localstatedir  = /var
bashcompletiondir = $(datarootdir)/bash-completion/completions
zshcompletiondir  = $(datarootdir)/zsh/site-functions
fishcompletiondir = $(datarootdir)/fish/vendor_completions.d
systemdservicedir = $(libdir)/systemd/system
sysusersdir    = $(libdir)/sysusers.d
tmpfilesdir    = $(libdir)/tmpfiles.d
shepherdservicedir = $(datarootdir)/shepherd/services
storedir       = /gnu/store

CARGO          = cargo
CARGOFLAGS     =
CARGO_TARGET   =
MAKEINFO       = makeinfo
OBJCOPY        = objcopy

-include config.mk

# Where Cargo builds: what the environment says, or `configure', or this.
CARGO_TARGET_DIR ?= target

release        = $(CARGO_TARGET_DIR)/$(if $(CARGO_TARGET),$(CARGO_TARGET)/)release
packages       = ./autoconf-compat/debian-packages
# Without Cargo's bar, which stands still while something large is compiled.
# No package is named anywhere: see `default-members' in Cargo.toml.
programs       = --bin guix-daemon --bin guix-offload --bin guix-client --bin guix-fetch
cargo_build    = CARGO_TERM_PROGRESS_WHEN=never ./autoconf-compat/patiently 8 compiling $(CARGO) build --release $(CARGOFLAGS)
# Whose programs make the manual: those of this machine.
native         = $(CARGO_TARGET_DIR)/release
manual         = $(CARGO_TARGET_DIR)/manual
# What `all' is made from, and a file as new as what it has made.
sources        = Cargo.toml Cargo.lock build.rs config.status.toml crates daemon hook client fetch doc
complete       = $(release)/.complete

export CARGO CARGO_TARGET_DIR
export prefix exec_prefix bindir libexecdir libdir datarootdir datadir mandir docdir htmldir infodir \
  sysconfdir localstatedir bashcompletiondir zshcompletiondir fishcompletiondir systemdservicedir \
  sysusersdir tmpfilesdir shepherdservicedir storedir DESTDIR release

.PHONY: all static demo demo-slurm check check-packages compliance bench install install-strip uninstall clean distclean dist doc packages

# All that `install' needs: the programs, their debug information, man pages and shell completions.
# Installs nothing: what is missing is named, before anything is compiled.
all:
	@$(packages) build
	@mkdir -p $(release) && touch $(complete).new
ifeq ($(CARGO_TARGET),)
	$(cargo_build) $(programs) --bin guix-manual
else
	$(cargo_build) --target $(CARGO_TARGET) $(programs)
	$(cargo_build) --bin guix-client --bin guix-manual
endif
	@$(native)/guix-manual $(manual)
	@$(native)/guix-client manual $(manual)
	@if command -v $(MAKEINFO) >/dev/null 2>&1; then \
	  $(MAKEINFO) --no-split -o $(manual)/guix-daemon.info $(manual)/guix-daemon.texi; \
	else \
	  rm -f $(manual)/guix-daemon.info; \
	  echo 'The manual is not made as Info: $(MAKEINFO) is missing (on Debian, package texinfo)'; \
	fi
	@OBJCOPY="$(OBJCOPY)" ./autoconf-compat/split-debug $(release) guix-daemon guix-offload guix-client guix-fetch
	@mv $(complete).new $(complete)

# Programs that run on any Linux of this processor, whatever its C library: all but guix-fetch, in
# `static' where Cargo builds.  They look users and groups up in /etc/passwd and /etc/group alone.
static_target  = $(or $(CARGO_TARGET),$(shell rustc -vV | sed -n 's/^host: //p'))
static_flags   = CARGO_TARGET_$(shell echo $(static_target) | tr a-z- A-Z_)_RUSTFLAGS
static         = $(CARGO_TARGET_DIR)/static

# By pkg-config, static libraries are taken only from outside of SYSROOT, which would be /usr.  Random
# numbers are to come from the C library's function: looked up at run time, in a static program,
# `getrandom' is that of the kernel's vDSO, which is another.
static:
	@$(packages) build
	$(static_flags)='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' SYSROOT=/none PKG_CONFIG_ALL_STATIC=1 LIBCURL_DYNAMIC=1 \
	  LIBSQLITE3_FLAGS=-DSQLITE_OMIT_LOAD_EXTENSION \
	  $(cargo_build) --target $(static_target) --features static --bin guix-daemon --bin guix-offload --bin guix-client
	@mkdir -p $(static)/bin $(static)/libexec/guix
	@$(OBJCOPY) --strip-debug $(CARGO_TARGET_DIR)/$(static_target)/release/guix-daemon $(static)/bin/guix-daemon
	@$(OBJCOPY) --strip-debug $(CARGO_TARGET_DIR)/$(static_target)/release/guix-client $(static)/bin/guix-client
	@$(OBJCOPY) --strip-debug $(CARGO_TARGET_DIR)/$(static_target)/release/guix-offload $(static)/libexec/guix/offload
	@echo $(static)

# A real program, built by two build machines that live as long as the demonstration.
# As root on Debian, this, `demo-slurm', `check' and `bench' install the packages that are missing.
demo:
	@./demo/namespaces
	@$(packages) --install demo
	$(cargo_build) $(programs) --bin guix-demo
	@./demo/run

# The same program, built by jobs of a Slurm cluster that lives as long as the demonstration.
demo-slurm:
	@./demo/namespaces slurm
	@$(packages) --install demo-slurm
	$(cargo_build) $(programs) --bin guix-demo
	@./demo/run slurm

# Everything that must hold; ends with `N passed, N failed, N skipped'.
check:
	@$(packages) --install check
	@./tests/check

# The Debian packages, made and tried on fresh machines.  Takes long, root and a network; not part of `check'.
# make check-packages PACKAGES_CACHE=DIRECTORY STEPS="build lintian"
PACKAGES_CACHE ?= $(CARGO_TARGET_DIR)/packages
STEPS ?=
check-packages:
	@./tests/packages/check --cache $(PACKAGES_CACHE) $(STEPS)

# The tests of the programs, driving another daemon.  Those that Guix's own daemon passes ask for the
# right thing.  GUIX_DAEMON_UNDER_TEST=PROGRAM make compliance
compliance:
	@test -n "$$GUIX_DAEMON_UNDER_TEST" || \
	  { echo 'usage: GUIX_DAEMON_UNDER_TEST=PROGRAM make compliance' >&2; exit 64; }
	$(CARGO) test --release --no-fail-fast $(CARGOFLAGS) --test '*'

# How long things take; beside Guix's own daemon where GUIX_REFERENCE_DAEMON names one.
bench:
	@$(packages) --install bench
	@$(MAKE) --no-print-directory all
	@./bench/run

# Man pages and shell completions, made from the tables of options; the manual as HTML and as Info.
doc: all

# Root often has no Cargo, and none is needed after `make'.
install:
	@if [ -e $(complete) ] && [ -z "$$(find $(wildcard $(sources)) -newer $(complete) -type f | head -n 1)" ]; then :; \
	elif command -v $(CARGO) >/dev/null 2>&1; then $(MAKE) --no-print-directory all; \
	elif [ -e $(complete) ]; then echo 'install: sources have changed since `make'"'"', and $(CARGO) is not in PATH'; fi
	@./autoconf-compat/install-files install

install-strip:
	@$(MAKE) install STRIP=strip

uninstall:
	@./autoconf-compat/install-files uninstall

clean:
	rm -rf $(CARGO_TARGET_DIR)

distclean: clean
	rm -f config.status.toml config.mk config.log config.cache

version        = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
tarball        = $(CARGO_TARGET_DIR)/guix-daemon-$(version).tar.gz
# What is committed, with the sources of all crates.
dist:
	@./autoconf-compat/patiently 8 'making the tarball' ./autoconf-compat/source-tarball $(tarball)
	@echo $(tarball)
