//! Evaluating machine files that need a Scheme interpreter, with Guile.
//!
//! A small Scheme program runs the file in a module where `build-machine` creates a list of the
//! fields as written, and prints the resulting machines as plain data. Guix's own modules are not
//! needed. The file belongs to the administrator and runs with the hook's privileges, as in Guix.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use system::process::find_program;

use super::problem::Error;

const PROGRAM: &str = r#"
(use-modules (ice-9 match) (ice-9 format) (srfi srfi-1))

(define (make-machine line column fields)
  (define (own? field) (assq (car field) fields))
  (let ((parent (assq 'inherit fields)))
    (cons* 'build-machine line column
           (append (if parent
                       (remove own? (cdddr (cadr parent)))
                       '())
                   (remove (lambda (field) (eq? (car field) 'inherit)) fields)))))

(define-syntax build-machine
  (lambda (s)
    (syntax-case s ()
      ((_ (field value) ...)
       (let* ((source (or (syntax-source s) '()))
              (line   (+ 1 (or (assq-ref source 'line) 0)))
              (column (+ 1 (or (assq-ref source 'column) 0))))
         #`(make-machine #,(datum->syntax s line) #,(datum->syntax s column)
                         (list (list 'field value) ...)))))))

(define (plain value)
  (match value
    ((? string?) value)
    ((? boolean?) value)
    ((? symbol?) value)
    ((? real?) (if (exact-integer? value) value (exact->inexact value)))
    ((? list?) (map plain value))
    (_ (format #f "~s" value))))

(define file (cadr (command-line)))
(define module (make-fresh-user-module))
(module-define! module 'make-machine make-machine)
(module-define! module 'build-machine (module-ref (current-module) 'build-machine))

(define (complain key . arguments)
  (print-exception (current-error-port) #f key arguments)
  (primitive-exit 1))

(set-current-module module)
(define result
  (catch #t
    (lambda ()
      (call-with-input-file file
        (lambda (port)
          (read-enable 'positions)
          (let loop ((last '()))
            (let ((form (read port)))
              (if (eof-object? form)
                  last
                  (loop (eval form module))))))))
    complain))

(if (list? result)
    (for-each (lambda (machine) (write (plain machine)) (newline)) result)
    (begin (write (plain (list 'not-a-list result))) (newline)))
"#;

/// The file name of `guile`, if it is installed.
pub fn program() -> Option<PathBuf> {
    find_program("guile")
}

/// The machines of `file`, as Guile prints them; `None` if there is no Guile.
pub fn evaluate(file: &Path) -> Result<Option<String>, Error> {
    let Some(guile) = program() else {
        return Ok(None);
    };
    let failed = |message: String| Error::Guile {
        file: file.into(),
        message,
    };
    let output = Command::new(&guile)
        .args(["--no-auto-compile", "-q", "-c", PROGRAM])
        .arg(file)
        .env("GUILE_AUTO_COMPILE", "0")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(format!("cannot run {}: {e}", guile.display())))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(failed(message.trim().chars().take(2000).collect()));
    }
    match String::from_utf8(output.stdout) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(failed("Guile printed something that is not UTF-8".into())),
    }
}
