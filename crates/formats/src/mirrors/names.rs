//! The names of the procedures that expressions for mirrors can call.

macro_rules! procedures {
    ($($variant:ident $name:literal,)*) => {
        /// A procedure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Procedure { $($variant,)* }

        impl Procedure {
            /// The procedure with this name.
            pub(super) fn named(name: &str) -> Option<Procedure> {
                match name {
                    $($name => Some(Procedure::$variant),)*
                    _ => None,
                }
            }

            /// Its name.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Procedure::$variant => $name,)*
                }
            }
        }
    };
}

procedures! {
    List "list",
    Cons "cons",
    Car "car",
    Cdr "cdr",
    Append "append",
    Reverse "reverse",
    Length "length",
    Map "map",
    Apply "apply",
    Not "not",
    IsNull "null?",
    IsPair "pair?",
    IsString "string?",
    IsSymbol "symbol?",
    IsBytes "bytevector?",
    IsEq "eq?",
    IsEqual "equal?",
    StringAppend "string-append",
    StringEqual "string=?",
    StringPrefix "string-prefix?",
    StringSuffix "string-suffix?",
    StringLength "string-length",
    Substring "substring",
    SymbolToString "symbol->string",
    StringToSymbol "string->symbol",
    NumberToString "number->string",
    Utf8ToString "utf8->string",
    BytesLength "bytevector-length",
    BytesRef "bytevector-u8-ref",
    BytesEqual "bytevector=?",
    BytesToList "bytevector->u8-list",
    ListToBytes "u8-list->bytevector",
    ToBase16 "bytevector->base16-string",
    ToBase32 "bytevector->base32-string",
    ToNixBase32 "bytevector->nix-base32-string",
    FromBase16 "base16-string->bytevector",
    FromBase32 "base32-string->bytevector",
    FromNixBase32 "nix-base32-string->bytevector",
    CurrentModule "current-module",
    ModuleAutoload "module-autoload!",
}
