#!/bin/sh
# guix.scm, and the part of a system's configuration in the manual, as Guix's own modules read them: the package has
# all crates of Cargo.lock, and the system's daemon is that of the package.
#
# Usage: GUIX_REFERENCE_SOURCE=DIRECTORY tests/packages/guix.sh
#
# DIRECTORY is a checkout of Guix, of 1.5 or later, with `guix/config.scm' as its `configure' makes it; compiled
# modules of it are taken from GUILE_LOAD_COMPILED_PATH.  Without them, this takes several minutes.  Nothing is
# built, and no daemon is asked.
set -eu
export LC_ALL=C.UTF-8 GUILE_AUTO_COMPILE=0
top=$(cd "$(dirname "$0")/../.." && pwd -P)
skip() { echo "$*"; exit 77; }
source=${GUIX_REFERENCE_SOURCE-}
[ -n "$source" ] || skip "needs Guix's own modules: GUIX_REFERENCE_SOURCE"
[ -e "$source/guix/packages.scm" ] || skip "$source has no Guix"
command -v guile >/dev/null || skip 'guile is not installed'
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# Modules that mirrors leave out for their size.  Packages need their contents when they are built, not before.
for module in tex rust-crates; do
    if [ -e "$source/gnu/packages/$module.scm" ]; then continue; fi
    mkdir -p "$work/modules/gnu/packages"
    echo "(define-module (gnu packages $module))" >"$work/modules/gnu/packages/$module.scm"
    echo "that checkout has no (gnu packages $module): it is empty here"
done
# The block of the page, with this checkout for the one of its example.
awk '/^```scheme/ { inside = 1; next } /^```/ { inside = 0 } inside' "$top/doc/src/installing.md" |
    sed "s,\"/root/guix-daemon-rs/guix.scm\",\"$top/guix.scm\"," >"$work/system.scm"
grep -qF "$top/guix.scm" "$work/system.scm" || { echo 'the page names no checkout'; exit 1; }

cat >"$work/read.scm" <<'SCHEME'
(use-modules (gnu) (gnu packages package-management) (guix packages)
             (ice-9 match) (srfi srfi-1) (srfi srfi-64))

;; Names that are not those of what is loaded, which would be other bindings then.
(define-values (checkout configuration wanted-crates wanted-version)
  (match (command-line)
    ((_ checkout configuration crates version)
     (values checkout configuration (string->number crates) version))))

(define our-package (load (string-append checkout "/guix.scm")))
(define our-services
  (begin
    (load configuration)
    (module-ref (current-module) '%services-with-daemon-rs)))
(define system-daemon
  (any (lambda (service)
         (and (eq? (service-kind service) guix-service-type)
              (guix-configuration-guix (service-value service))))
       our-services))

(define (crate? input)
  (match input
    ((_ (? origin? origin) . _)
     (match (origin-uri origin)
       ((or (uri . _) uri) (string-contains uri "crates.io"))))
    (_ #f)))
(define (input-of-package? name)
  (any (match-lambda
         ((_ (? package? input) . _) (string=? (package-name input) name))
         (_ #f))
       (package-direct-inputs our-package)))

(test-begin "guix")
(test-assert "guix.scm is a package" (package? our-package))
(test-equal "its version is that of Cargo.toml"
  wanted-version (package-version our-package))
(test-equal "it has all crates"
  wanted-crates (count crate? (package-direct-inputs our-package)))
(test-assert "it has the libraries"
  (every input-of-package? '("pkg-config" "curl" "libgcrypt" "sqlite" "zlib" "zstd")))
(test-equal "the system's daemon is of the manual's package"
  "guix-with-daemon-rs" (package-name system-daemon))
(test-assert "which has a recipe" (pair? (package-arguments system-daemon)))
(test-assert "the other services are as they were"
  (lset= eq? (map service-kind %base-services) (map service-kind our-services)))
(define failed (test-runner-fail-count (test-runner-current)))
(test-end "guix")
(exit (zero? failed))
SCHEME
crates=$(grep -c '^checksum = ' "$top/Cargo.lock")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$top/Cargo.toml" | head -n 1)
(cd "$work" && GUILE_LOAD_PATH="$work/modules:$source${GUILE_LOAD_PATH:+:$GUILE_LOAD_PATH}" \
    guile --no-auto-compile read.scm "$top" "$work/system.scm" "$crates" "$version") >"$work/said" 2>&1 ||
    { cat "$work/said"; if [ -e "$work/guix.log" ]; then cat "$work/guix.log"; fi; exit 1; }
sed -n 's/^# of expected passes *//p' "$work/said" | sed 's/$/ tests passed/'
