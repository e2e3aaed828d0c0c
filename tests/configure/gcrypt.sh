#!/bin/sh
# What crates/gcrypt/src/sys.rs says of libgcrypt's functions and numbers is what <gcrypt.h> says.
#
# Each declaration is translated into C, and the C compiler compares: a second declaration of a
# function must have the same types.
set -eu
export LC_ALL=C
top=$(cd "$(dirname "$0")/../.." && pwd -P)
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
: "${CC:=cc}"

# translate FILE: its declarations in C.
translate() {
    awk '
    function c_type(rust) {
        if (rust ~ /^\*mut /) return c_type(substr(rust, 6)) " *"
        if (rust ~ /^\*const /) return "const " c_type(substr(rust, 8)) " *"
        if (rust == "gcry_error_t" || rust == "gcry_sexp_t") return rust
        if (rust == "usize") return "size_t"
        if (rust == "c_int" || rust == "c_char" || rust == "c_void") return substr(rust, 3)
        print "#error " FILENAME ":" FNR ": a type that is not understood: " rust
    }
    /^unsafe extern "C" \{/ { inside = 1; next }
    /^}/ { inside = 0 }
    inside {
        line = $0
        sub(/^ *(pub(\(crate\))? )?fn /, "", line)
        sub(/;$/, "", line)
        result = "void"
        if (match(line, / -> .*$/)) {
            result = c_type(substr(line, RSTART + 4))
            line = substr(line, 1, RSTART - 1)
        }
        name = line; sub(/\(.*/, "", name)
        sub(/^[^(]*\(/, "", line); sub(/\)$/, "", line)
        count = split(line, argument, ", ")
        list = ""
        for (i = 1; i <= count; i++) {
            type = argument[i]
            if (type == "...") {
                list = list ", ..."
                continue
            }
            sub(/^[a-z]+: /, "", type)
            # libgcrypt declares its commands as an enumeration, which is passed as an int.
            list = list (i > 1 ? ", " : "") (name == "gcry_control" && i == 1 ? "enum gcry_ctl_cmds" : c_type(type))
        }
        print result " " name "(" list ");"
    }
    /^(pub(\(crate\))? )?const GCRY[A-Z_]*: c_int = [0-9]+;$/ {
        line = $0
        sub(/^.*const /, "", line); sub(/: c_int =/, " ==", line); sub(/;/, "", line)
        print "_Static_assert(" line ", \"a number\");"
    }' "$1"
}

# agrees FILE: whether the compiler finds nothing wrong with it; what it says is in $work/said.
agrees() {
    { echo '#include <gcrypt.h>'
      echo '_Static_assert(sizeof(gcry_error_t) == sizeof(unsigned int) && (gcry_error_t) -1 > 0, "gcry_error_t");'
      echo '_Static_assert(sizeof(enum gcry_ctl_cmds) == sizeof(int), "gcry_ctl_cmds");'
      translate "$1"; } >"$work/declarations.c"
    # shellcheck disable=SC2046 # Flags are words.
    $CC -std=c11 -fsyntax-only $(pkg-config --cflags libgcrypt) "$work/declarations.c" >"$work/said" 2>&1
}

source=$top/crates/gcrypt/src/sys.rs
agrees "$source" || { cat "$work/said"; exit 1; }
functions=$(grep -c ' fn gcry_' "$source") numbers=$(grep -c 'const GCRY' "$source")
[ "$(grep -c '^[a-z].* gcry_[a-z_]*(.*);$' "$work/declarations.c")" = "$functions" ] &&
    [ "$(grep -c '== [0-9]*, "a number"' "$work/declarations.c")" = "$numbers" ] ||
    { echo "of $functions functions and $numbers numbers, these were compared:"; cat "$work/declarations.c"; exit 1; }

# The comparison itself: each of these is wrong, and found.
# wrong SED-SCRIPT
wrong() {
    sed "$1" "$source" >"$work/sys.rs"
    if cmp -s "$source" "$work/sys.rs"; then echo "changes nothing: $1"; exit 1; fi
    if agrees "$work/sys.rs"; then echo "not found: $1"; exit 1; fi
}
wrong '/fn gcry_sexp_length/s/c_int/usize/'
wrong '/fn gcry_sexp_nth(/s/index: c_int/index: usize/'
wrong '/fn gcry_pk_sign/s/data: gcry_sexp_t, //'
wrong '/fn gcry_sexp_nth_data/s/length: \*mut usize/length: *mut c_int/'
wrong '/fn gcry_sexp_sscan/s/\*const c_char/*mut c_char/'
wrong 's/GCRYCTL_DISABLE_SECMEM: c_int = 37/GCRYCTL_DISABLE_SECMEM: c_int = 36/'
