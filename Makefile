# Thin and conventional: Cargo builds, scripts check, this file gives both their usual names.
# Variables and targets are those of the GNU Coding Standards; `autoconf-compat/configure' may
# set the directories (it writes config.mk), and the command line overrides both.

prefix         = /usr/local
exec_prefix    = $(prefix)
bindir         = $(exec_prefix)/bin
libexecdir     = $(exec_prefix)/libexec
libdir         = $(exec_prefix)/lib
datarootdir    = $(prefix)/share
datadir        = $(datarootdir)
mandir         = $(datarootdir)/man
docdir         = $(datarootdir)/doc/guix-daemon
sysconfdir     = /etc
localstatedir  = /var
bashcompletiondir = $(datarootdir)/bash-completion/completions
zshcompletiondir  = $(datarootdir)/zsh/site-functions
fishcompletiondir = $(datarootdir)/fish/vendor_completions.d
systemdservicedir = $(libdir)/systemd/system
shepherdservicedir = $(datarootdir)/shepherd/services
storedir       = /gnu/store

CARGO          = cargo
CARGOFLAGS     =
CARGO_TARGET   =
TARGET_DIR     = target

-include config.mk

release        = $(TARGET_DIR)/$(if $(CARGO_TARGET),$(CARGO_TARGET)/)release
cargo_build    = $(CARGO) build --release $(CARGOFLAGS) $(if $(CARGO_TARGET),--target $(CARGO_TARGET))
programs       = guix-daemon guix-offload guix-client
packages       = ./autoconf-compat/debian-packages

export CARGO_TARGET_DIR = $(TARGET_DIR)
export prefix exec_prefix bindir libexecdir libdir datarootdir datadir mandir docdir sysconfdir \
  localstatedir bashcompletiondir zshcompletiondir fishcompletiondir systemdservicedir \
  shepherdservicedir storedir DESTDIR release

.PHONY: all demo check compliance bench install install-strip uninstall clean distclean dist doc packages

all:
	@$(packages) build
	$(cargo_build) $(programs:%=--bin %)

# A real program, built by two build machines that live as long as the demonstration.
demo: all
	@$(packages) demo
	@./demo/run

# Everything that must hold; ends with `N passed, N failed, N skipped'.
check:
	@$(packages) check
	@./tests/check

# The tests of the programs, driving another daemon: the original proves that they ask for the right
# thing.  GUIX_DAEMON_UNDER_TEST=PROGRAM make compliance
compliance:
	@test -n "$$GUIX_DAEMON_UNDER_TEST" || \
	  { echo 'usage: GUIX_DAEMON_UNDER_TEST=PROGRAM make compliance' >&2; exit 64; }
	$(CARGO) test --release --no-fail-fast $(CARGOFLAGS) -p guix-daemon --test '*'

# How long things take; beside Guix's own daemon where GUIX_REFERENCE_DAEMON names one.
bench: all
	@$(packages) bench
	@./bench/run

# Man pages and shell completions, made from the tables of options.
doc: all
	$(CARGO) run --release --quiet $(CARGOFLAGS) --example manual -- $(TARGET_DIR)/manual
	$(release)/guix-client manual $(TARGET_DIR)/manual

# Where Cargo is out of reach, as for root after `make all doc', what was built is installed.
install:
	@if command -v $(CARGO) >/dev/null 2>&1; then $(MAKE) --no-print-directory doc; fi
	@./autoconf-compat/install-files install

install-strip:
	@$(MAKE) install STRIP=strip

uninstall:
	@./autoconf-compat/install-files uninstall

clean:
	rm -rf $(TARGET_DIR)

distclean: clean
	rm -f config.status.toml config.mk config.log config.cache

version        = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
dist:
	@mkdir -p $(TARGET_DIR)
	git archive --format=tar --prefix=guix-daemon-$(version)/ HEAD \
	  | gzip -9n > $(TARGET_DIR)/guix-daemon-$(version).tar.gz
	@echo $(TARGET_DIR)/guix-daemon-$(version).tar.gz
