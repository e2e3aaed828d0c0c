;;; The package for GNU Guix: `guix build -f guix.scm', `guix shell -D -f guix.scm', or, in a system's
;;; configuration, `(load "…/guix.scm")'.
;;;
;;; The source is this checkout, without what git doesn't know.  Others' crates are those that Cargo.lock
;;; names, with its hashes, so that nothing here has to follow a change of dependencies.

(use-modules (guix base16)
             (guix build-system cargo)
             (guix download)
             (guix gexp)
             (guix git-download)
             ((guix licenses) #:prefix license:)
             (guix packages)
             (guix utils)
             (gnu packages compression)
             (gnu packages curl)
             (gnu packages gnupg)
             (gnu packages pkg-config)
             (gnu packages rust)
             (gnu packages sqlite)
             (gnu packages texinfo)
             (ice-9 rdelim)
             (ice-9 regex)
             (srfi srfi-1))

(define %top (current-source-directory))

(define (locked-crates file)
  "The origins of the crates that a Cargo.lock takes from crates.io: each has a name, a version and a
checksum, in this order, and those of this project have no checksum."
  (define field (make-regexp "^(name|version|checksum) = \"([^\"]*)\"$"))
  (call-with-input-file file
    (lambda (port)
      (let loop ((name #f) (version #f) (crates '()))
        (let* ((line (read-line port))
               (match (and (string? line) (regexp-exec field line)))
               (value (and match (match:substring match 2))))
          (cond ((eof-object? line) (reverse crates))
                ((not match) (loop name version crates))
                ((string=? (match:substring match 1) "name")
                 (loop value #f crates))
                ((string=? (match:substring match 1) "version")
                 (loop name value crates))
                (else
                 (loop #f #f
                       (cons (crate name version (base16-string->bytevector value))
                             crates)))))))))

(define (crate name version checksum)
  (origin
    (method url-fetch)
    (uri (crate-uri name version))
    (file-name (string-append "rust-" name "-" version ".tar.gz"))
    (hash (content-hash checksum sha256))))

(define-public guix-daemon-rs
  (package
    (name "guix-daemon-rs")
    (version
     ;; That of the first package that Cargo.toml names.
     (call-with-input-file (string-append %top "/Cargo.toml")
       (lambda (port)
         (let loop ((line (read-line port)))
           (cond ((string-match "^version = \"(.*)\"$" line)
                  => (lambda (match) (match:substring match 1)))
                 (else (loop (read-line port))))))))
    (source (local-file "." "guix-daemon-rs-checkout"
                        #:recursive? #t
                        #:select? (or (git-predicate %top) (const #t))))
    (build-system cargo-build-system)
    (arguments
     (list #:install-source? #f
           #:tests? #f                  ;they need root, users and mounts
           #:phases
           #~(modify-phases %standard-phases
               (add-after 'configure 'configure-directories
                 (lambda _
                   ;; The store, the state and the configuration of the Guix that is here.
                   (invoke "./autoconf-compat/configure" "CC=gcc"
                           (string-append "--prefix=" #$output)
                           "--sysconfdir=/etc" "--localstatedir=/var")))
               (replace 'build
                 (lambda _ (invoke "make")))
               (replace 'install
                 (lambda _ (invoke "make" "install"))))))
    (native-inputs (list pkg-config texinfo))
    (inputs
     (append (list curl libgcrypt sqlite zlib (list zstd "lib"))
             (locked-crates (string-append %top "/Cargo.lock"))))
    (home-page "https://guix.gnu.org")
    (synopsis "Build daemon of GNU Guix, in Rust")
    (description
     "This package has a build daemon for GNU Guix with the same protocol, database and store, its
offload hook, the program that downloads and substitutes, and a small client.")
    (license license:gpl3+)))

guix-daemon-rs
