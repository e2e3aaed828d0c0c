/* Does an unbuffered stream over a pipe take from it exactly what was asked?

   The daemon tells its offload hook what to send through the hook's standard
   input: a request line, and later the lines that name inputs and outputs.
   The hook may hand that descriptor to a program of its own in between.  That
   works only where reading a line takes that line and not a byte more, so
   that whoever reads the descriptor next finds what follows.

   This program puts more into a pipe than it asks for, once by line, once by
   character and once by count, and then reads the descriptor itself.  Exit status:
   0 yes, 1 no, 2 the question could not be put (the reason is on stderr).

   Used by build.rs, by configure and by m4/guix.m4.  */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { YES = 0, NO = 1, UNKNOWN = 2 };

enum way { BY_LINE, BY_CHARACTER, BY_COUNT };

static const char line[] = "1 x86_64-linux /gnu/store/item.drv feature\n";
static const char rest[] = "/gnu/store/input\n\0binary\n";

/* Take LINE from the stream in the given WAY; return 0 when it came whole.  */
static int
take (FILE *stream, enum way way)
{
  char buffer[sizeof line];
  size_t length = sizeof line - 1, i;

  memset (buffer, 0, sizeof buffer);
  switch (way)
    {
    case BY_LINE:
      if (fgets (buffer, sizeof buffer, stream) == NULL)
        return -1;
      break;
    case BY_CHARACTER:
      for (i = 0; i < length; i++)
        {
          int c = getc (stream);
          if (c == EOF)
            return -1;
          buffer[i] = (char) c;
        }
      break;
    case BY_COUNT:
      if (fread (buffer, 1, length, stream) != length)
        return -1;
      break;
    }
  return memcmp (buffer, line, length) == 0 ? 0 : -1;
}

static int
probe (enum way way)
{
  int ends[2];
  char buffer[sizeof rest];
  size_t wanted = sizeof rest - 1, have = 0;
  FILE *stream;
  int result = NO;

  if (pipe (ends) != 0)
    {
      perror ("pipe");
      return UNKNOWN;
    }
  /* Both writes are far below any pipe's capacity: neither blocks.  */
  if (write (ends[1], line, sizeof line - 1) != (ssize_t) (sizeof line - 1)
      || write (ends[1], rest, wanted) != (ssize_t) wanted
      || close (ends[1]) != 0)
    {
      perror ("write");
      return UNKNOWN;
    }
  stream = fdopen (ends[0], "r");
  if (stream == NULL)
    {
      perror ("fdopen");
      return UNKNOWN;
    }
  if (setvbuf (stream, NULL, _IONBF, 0) == 0 && take (stream, way) == 0)
    {
      /* Now the next reader: the descriptor, behind the stream's back.  */
      while (have < wanted)
        {
          ssize_t got = read (ends[0], buffer + have, wanted - have);
          if (got <= 0)
            break;
          have += (size_t) got;
        }
      if (have == wanted && memcmp (buffer, rest, wanted) == 0)
        result = YES;
    }
  fclose (stream);
  return result;
}

int
main (void)
{
  static const enum way ways[] = { BY_LINE, BY_CHARACTER, BY_COUNT };
  size_t i;

  for (i = 0; i < sizeof ways / sizeof ways[0]; i++)
    {
      int result = probe (ways[i]);
      if (result != YES)
        return result;
    }
  return YES;
}
