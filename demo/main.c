/* The interpreter of the demonstration: Lua, as a library, run on the script that is named on
   the command line.  (The crate that carries Lua's source leaves out Lua's own main program.)  */

#include <stdio.h>

#include "lua.h"
#include "lauxlib.h"
#include "lualib.h"

int
main (int argc, char **argv)
{
  lua_State *state;
  int failed;

  if (argc != 2)
    {
      fprintf (stderr, "usage: %s SCRIPT\n", argv[0]);
      return 64;
    }
  state = luaL_newstate ();
  if (state == NULL)
    {
      fprintf (stderr, "%s: not enough memory\n", argv[0]);
      return 1;
    }
  luaL_openlibs (state);
  failed = luaL_dofile (state, argv[1]);
  if (failed)
    fprintf (stderr, "%s: %s\n", argv[0], lua_tostring (state, -1));
  lua_close (state);
  return failed;
}
