//! Every form of the expression that derivations carry, and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::hash::Algorithm;

fn hash() -> Hash {
    Hash::of(Algorithm::Sha256, "contents")
}

fn urls(expression: &str) -> Vec<String> {
    let found = content_addressed(expression, "hello-2.12.tar.gz", &hash()).unwrap();
    assert_eq!(found.problems, []);
    found.urls
}

fn error(expression: &str) -> String {
    content_addressed(expression, "file", &hash())
        .unwrap_err()
        .to_string()
}

#[test]
fn the_forms_of_all_years() {
    let (nix, hex) = (hash().base32(), hash().hex());
    // May 2016: two parameters.
    let first = "(list (lambda (algo hash) (string-append \"http://a/\" (symbol->string algo) \"/\"
                   (bytevector->nix-base32-string hash))))";
    assert_eq!(urls(first), [format!("http://a/sha256/{nix}")]);
    // July 2016.
    let second = "(list (lambda (file algo hash)
                    ;; Files served by 'guix publish'.
                    (string-append \"http://a/file/\" file \"/\" (symbol->string algo) \"/\"
                                   (bytevector->nix-base32-string hash)))
                  (lambda (file algo hash) (string-append \"http://b/\" (symbol->string algo)
                    \"/\" (bytevector->nix-base32-string hash))))";
    let expected = [
        format!("http://a/file/hello-2.12.tar.gz/sha256/{nix}"),
        format!("http://b/sha256/{nix}"),
    ];
    assert_eq!(urls(second), expected);
    // November 2018, in two forms.
    let third = format!("(begin (use-modules (guix base32) (guix base16)) {second})");
    assert_eq!(urls(&third), expected);
    let fourth = "(begin
        (use-modules (guix base32))
        (define (guix-publish host)
          (lambda (file algo hash)
            (string-append \"https://\" host \"/file/\" file \"/\" (symbol->string algo) \"/\"
                           (bytevector->nix-base32-string hash))))
        (module-autoload! (current-module) '(guix base16) '(bytevector->base16-string))
        (list (guix-publish \"c\") (guix-publish \"d\")
              (lambda (file algo hash)
                (string-append \"https://e/api/1/content/\" (symbol->string algo) \":\"
                               (bytevector->base16-string hash) \"/raw/\"))))";
    assert_eq!(
        urls(fourth),
        [
            format!("https://c/file/hello-2.12.tar.gz/sha256/{nix}"),
            format!("https://d/file/hello-2.12.tar.gz/sha256/{nix}"),
            format!("https://e/api/1/content/sha256:{hex}/raw/"),
        ]
    );
    // Tests of Guix.
    assert_eq!(urls("'()"), [""; 0]);
    assert_eq!(urls("(list (lambda args #f))"), [""; 0]);
}

#[test]
fn one_mirror_that_fails_does_not_end_the_others() {
    let expression = "(list (lambda (file algo hash) (open-input-file \"/etc/passwd\"))
                            (lambda (file algo hash) 7)
                            (lambda (file) file)
                            (lambda (file algo hash) (string-append \"http://a/\" file)))";
    let found = content_addressed(expression, "f", &hash()).unwrap();
    assert_eq!(found.urls, ["http://a/f"]);
    let problems: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "1:33: unknown name `open-input-file'",
            "a mirror's procedure does not return a URL",
            "1:1: wrong number of arguments"
        ]
    );
}

#[test]
fn expressions_that_are_not_for_mirrors_say_where() {
    for (expression, expected) in [
        ("", "no expression"),
        ("(list", "1:1: unmatched open parenthesis"),
        ("7", "the value is not a list of mirrors"),
        ("(system \"id\")", "1:2: unknown name `system'"),
        ("#.(system \"id\")", "1:1: `#.' is not allowed"),
        ("(list #.(list))", "1:7: `#.' is not allowed"),
        ("(\"f\" 1)", "1:1: not a procedure"),
        ("(car 1)", "1:1: wrong arguments of `car'"),
        (
            "(lambda (#:key a) a)",
            "1:9: unknown list of parameters `(#:key a)'",
        ),
        ("(define)", "1:1: unknown form of `define'"),
        ("(begin)", "1:1: nothing to evaluate"),
        ("()", "1:1: `()' is not an expression"),
        ("(let ((1 2)) 3)", "1:7: unknown binding `(1 2)'"),
        (
            "(bytevector->base16-string \"a\")",
            "1:1: wrong arguments of `bytevector->base16-string'",
        ),
    ] {
        assert_eq!(error(expression), expected, "{expression}");
    }
}

#[test]
fn nothing_takes_long() {
    let omega = "((lambda (x) (x x)) (lambda (x) (x x)))";
    assert_eq!(error(omega), "evaluation takes too much time");
    let deep = "(begin (define (f x) (cons (f x) 1)) (f 1))";
    assert_eq!(error(deep), "evaluation takes too much depth");
    let large = "(begin (define (f x) (f (string-append x x))) (f \"01234567890123456789\"))";
    assert_eq!(error(large), "evaluation takes too much memory");
    let wide = "(begin (define (f x) (f (append x x))) (f '(1 2 3 4 5 6 7 8)))";
    assert_eq!(error(wide), "evaluation takes too much memory");
    let many = format!("(begin {} (f))", "(define x 1)".repeat(60_000));
    assert!(error(&many).starts_with("evaluation takes too much"));
    let nested = "(list ".repeat(10_000);
    assert!(error(&nested).contains("nested more than"));
}

#[test]
fn the_rest_of_the_vocabulary() {
    let url = |expression: &str| {
        let list = format!("(list (lambda (file algo hash) {expression}))");
        urls(&list).pop().unwrap()
    };
    for (expression, expected) in [
        ("(if (string-prefix? \"hello\" file) \"a\" \"b\")", "a"),
        ("(if #f \"a\" \"b\")", "b"),
        (
            "(or (and (string? file) #f) (let ((x \"c\") (y 1)) x))",
            "c",
        ),
        ("(let* ((x \"a\") (y (string-append x \"b\"))) y)", "ab"),
        (
            "(apply string-append \"x\" (map symbol->string '(a b)))",
            "xab",
        ),
        (
            "(apply string-append (reverse (append '(\"a\") (list \"b\") '())))",
            "ba",
        ),
        ("(substring file 6 10)", "2.12"),
        ("(car (cons file algo))", "hello-2.12.tar.gz"),
        ("(number->string (bytevector-length hash))", "32"),
        ("(number->string (length (bytevector->u8-list hash)))", "32"),
        ("(utf8->string (u8-list->bytevector '(104 105)))", "hi"),
        (
            "(bytevector->base32-string (u8-list->bytevector '(104 105)))",
            "nbuq",
        ),
        ("(utf8->string (base32-string->bytevector \"nbuq\"))", "hi"),
        ("(utf8->string (base16-string->bytevector \"6869\"))", "hi"),
        ("(if (eq? algo 'sha256) \"yes\" \"no\")", "yes"),
        ("(if (not (equal? file \"x\")) \"yes\" \"no\")", "yes"),
        (
            "((lambda (a . rest) (apply string-append rest)) \"a\" \"b\" \"c\")",
            "bc",
        ),
    ] {
        assert_eq!(url(expression), expected, "{expression}");
    }
    let back = "(if (bytevector=? hash (nix-base32-string->bytevector
                  (bytevector->nix-base32-string hash))) \"same\" \"other\")";
    assert_eq!(url(back), "same");
}

#[test]
fn lists_of_mirrors() {
    let text = "((gnu ; comment\n \"https://a\" 7 \"b\") \"x\" (\"kde\" \"c\") (debian \"d\"))";
    let lists = MirrorLists::parse(text).unwrap();
    assert_eq!(lists.of("gnu"), ["https://a", "b"]);
    assert_eq!(lists.of("kde"), [""; 0]);
    assert_eq!(lists.of("debian"), ["d"]);
    assert_eq!(MirrorLists::parse("'((a \"b\"))").unwrap().of("a"), ["b"]);
    assert!(MirrorLists::parse("7").is_err());
    assert!(MirrorLists::parse("").is_err());
}

/// Expressions of the vocabulary, most of them wrong.
fn expression() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "list",
        "lambda",
        "(a b c)",
        "(a . b)",
        "define",
        "f",
        "x",
        "begin",
        "if",
        "let",
        "let*",
        "((x 1))",
        "quote",
        "'(1 2)",
        "\"text\"",
        "7",
        "#f",
        "map",
        "apply",
        "cons",
        "car",
        "cdr",
        "append",
        "string-append",
        "symbol->string",
        "hash",
        "file",
        "algo",
        "substring",
        "length",
        "bytevector->base16-string",
        "u8-list->bytevector",
        "and",
        "or",
        "not",
        "reverse",
        "'()",
    ]);
    let leaf = words.prop_map(str::to_owned);
    leaf.prop_recursive(6, 60, 5, |inner| {
        prop::collection::vec(inner, 0..5).prop_map(|items| format!("({})", items.join(" ")))
    })
}

proptest! {
    #[test]
    fn no_expression_panics(expression in expression()) {
        let _ = content_addressed(&expression, "f", &hash());
        let mirror = format!("(list (lambda (file algo hash) {expression}))");
        let _ = content_addressed(&mirror, "f", &hash());
        let defined = format!("(begin (define (f x) {expression}) (list (f 1) {expression}))");
        let _ = content_addressed(&defined, "f", &hash());
    }

    #[test]
    fn no_text_panics(text in "[()'\"#.;a-c0-9 \n]{0,60}") {
        let _ = content_addressed(&text, "f", &hash());
        let _ = MirrorLists::parse(&text);
    }
}
