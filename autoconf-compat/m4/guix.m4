dnl guix.m4 -- the configure-time question of GNU Guix's daemon in Rust, for projects that use
dnl real Autoconf.  Copying and distribution of this file, with or without modification, are
dnl permitted as those of the package it comes with.

dnl GUIX_CHECK_UNBUFFERED_CBIP
dnl
dnl Check whether an unbuffered stream over a pipe takes from it exactly what was asked, so that
dnl whoever reads the descriptor next finds the rest.  The daemon's offload hook depends on it.
dnl
dnl Sets the cache variable 'ac_cv_guix_cbips_support_setvbuf' to 'yes' or 'no'; a value given on
dnl the command line of 'configure' is taken as it is.  When cross-compiling, the answer is
dnl 'yes' for the C libraries of GNU/Linux and musl, and 'no' for the others.
dnl
dnl Same question as build.rs puts with autoconf-compat/unbuffered-pipe.c; the program is here
dnl once more, shorter, because M4 files are copied alone into other projects.
AC_DEFUN([GUIX_CHECK_UNBUFFERED_CBIP], [
  AC_REQUIRE([AC_CANONICAL_HOST])
  AC_CACHE_CHECK([whether unbuffered streams over pipes take what was asked],
    [ac_cv_guix_cbips_support_setvbuf],
    [AC_LANG_PUSH([C])
     AC_RUN_IFELSE(
       [AC_LANG_SOURCE([[
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int
main (void)
{
  static const char line[] = "a line\n", rest[] = "and what follows\n";
  char buffer[64];
  int by_count, ends[2];
  FILE *stream;

  for (by_count = 0; by_count < 2; by_count++)
    {
      if (pipe (ends) != 0
          || write (ends[1], line, strlen (line)) != (ssize_t) strlen (line)
          || write (ends[1], rest, strlen (rest)) != (ssize_t) strlen (rest)
          || close (ends[1]) != 0
          || (stream = fdopen (ends[0], "r")) == NULL
          || setvbuf (stream, NULL, _IONBF, 0) != 0)
        return 1;
      memset (buffer, 0, sizeof buffer);
      if (by_count
          ? fread (buffer, 1, strlen (line), stream) != strlen (line)
          : fgets (buffer, sizeof buffer, stream) == NULL)
        return 1;
      if (strcmp (buffer, line) != 0
          || read (ends[0], buffer, sizeof buffer) != (ssize_t) strlen (rest)
          || memcmp (buffer, rest, strlen (rest)) != 0)
        return 1;
      fclose (stream);
    }
  return 0;
}
       ]])],
       [ac_cv_guix_cbips_support_setvbuf=yes],
       [ac_cv_guix_cbips_support_setvbuf=no],
       [case "x$host" in
          x*-linux-gnu* | x*-linux-musl*) ac_cv_guix_cbips_support_setvbuf=yes ;;
          *) ac_cv_guix_cbips_support_setvbuf=no ;;
        esac])
     AC_LANG_POP([C])])
  case "$ac_cv_guix_cbips_support_setvbuf" in
    yes | no) ;;
    *) AC_MSG_ERROR([ac_cv_guix_cbips_support_setvbuf must be 'yes' or 'no', not '$ac_cv_guix_cbips_support_setvbuf']) ;;
  esac
])

dnl GUIX_CHECK_DAEMON_OFFLOAD
dnl
dnl Provide '--disable-daemon-offload', check what GUIX_CHECK_UNBUFFERED_CBIP checks, set
dnl 'guix_build_daemon_offload' to 'yes' or 'no', and define HAVE_DAEMON_OFFLOAD_HOOK if 'yes'.
AC_DEFUN([GUIX_CHECK_DAEMON_OFFLOAD], [
  AC_ARG_ENABLE([daemon-offload],
    [AS_HELP_STRING([--disable-daemon-offload],
      [build the daemon without its offload hook])],
    [guix_build_daemon_offload="$enableval"],
    [guix_build_daemon_offload="yes"])
  GUIX_CHECK_UNBUFFERED_CBIP
  AS_IF([test "x$ac_cv_guix_cbips_support_setvbuf" != "xyes"],
    [guix_build_daemon_offload="no"])
  AC_MSG_CHECKING([whether to build the offload hook])
  AC_MSG_RESULT([$guix_build_daemon_offload])
  AS_IF([test "x$guix_build_daemon_offload" = "xyes"],
    [AC_DEFINE([HAVE_DAEMON_OFFLOAD_HOOK], [1],
      [Define if the daemon's 'offload' build hook is being built.])])
])
