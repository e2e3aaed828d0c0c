/* The builder of `guix-client build --hello': writes the value of the variable `text' to the file
   named by `out'.  It is linked with nothing, so that it runs in an empty store, in any sandbox
   and on any build machine of the same architecture.  build.rs compiles it. */

#define AT_FDCWD (-100)
#define O_WRONLY 1
#define O_CREAT 0100
#define O_EXCL 0200

#if defined __x86_64__

enum { SYS_write = 1, SYS_openat = 257, SYS_exit = 60 };
__asm__ (".globl _start\n_start:\n mov %rsp, %rdi\n and $-16, %rsp\n call build\n hlt\n");

static long
system_call (long number, long a, long b, long c, long d)
{
  register long fourth __asm__ ("r10") = d;
  long result;
  __asm__ volatile ("syscall" : "=a" (result)
                    : "a" (number), "D" (a), "S" (b), "d" (c), "r" (fourth)
                    : "rcx", "r11", "memory");
  return result;
}

#elif defined __i386__

enum { SYS_write = 4, SYS_openat = 295, SYS_exit = 1 };
__asm__ (".globl _start\n_start:\n mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n"
         " call build\n hlt\n");

static long
system_call (long number, long a, long b, long c, long d)
{
  long result;
  __asm__ volatile ("int $0x80" : "=a" (result)
                    : "a" (number), "b" (a), "c" (b), "d" (c), "S" (d) : "memory");
  return result;
}

#elif defined __aarch64__

enum { SYS_write = 64, SYS_openat = 56, SYS_exit = 93 };
__asm__ (".globl _start\n_start:\n mov x0, sp\n bl build\n");

static long
system_call (long number, long a, long b, long c, long d)
{
  register long n __asm__ ("x8") = number;
  register long first __asm__ ("x0") = a;
  register long second __asm__ ("x1") = b;
  register long third __asm__ ("x2") = c;
  register long fourth __asm__ ("x3") = d;
  __asm__ volatile ("svc 0" : "+r" (first)
                    : "r" (n), "r" (second), "r" (third), "r" (fourth) : "memory");
  return first;
}

#elif defined __arm__ && defined __ARM_EABI__

enum { SYS_write = 4, SYS_openat = 322, SYS_exit = 1 };
__asm__ (".globl _start\n_start:\n mov r0, sp\n bic sp, sp, #7\n bl build\n");

static long
system_call (long number, long a, long b, long c, long d)
{
  register long n __asm__ ("r7") = number;
  register long first __asm__ ("r0") = a;
  register long second __asm__ ("r1") = b;
  register long third __asm__ ("r2") = c;
  register long fourth __asm__ ("r3") = d;
  __asm__ volatile ("svc 0" : "+r" (first)
                    : "r" (n), "r" (second), "r" (third), "r" (fourth) : "memory");
  return first;
}

#elif defined __riscv && __riscv_xlen == 64

enum { SYS_write = 64, SYS_openat = 56, SYS_exit = 93 };
__asm__ (".globl _start\n_start:\n mv a0, sp\n andi sp, sp, -16\n call build\n");

static long
system_call (long number, long a, long b, long c, long d)
{
  register long n __asm__ ("a7") = number;
  register long first __asm__ ("a0") = a;
  register long second __asm__ ("a1") = b;
  register long third __asm__ ("a2") = c;
  register long fourth __asm__ ("a3") = d;
  __asm__ volatile ("ecall" : "+r" (first)
                    : "r" (n), "r" (second), "r" (third), "r" (fourth) : "memory");
  return first;
}

#else
# error "no system calls are known for this architecture"
#endif

static unsigned long
length (const char *text)
{
  unsigned long count = 0;
  while (text[count] != '\0')
    count++;
  return count;
}

/* What follows `prefix' in the first string of `environment' that begins with it. */
static const char *
value_of (char **environment, const char *prefix)
{
  for (; *environment; environment++)
    {
      const char *text = *environment, *expected = prefix;
      while (*expected != '\0' && *text == *expected)
        text++, expected++;
      if (*expected == '\0')
        return text;
    }
  return 0;
}

static void
end (int status)
{
  for (;;)
    system_call (SYS_exit, status, 0, 0, 0);
}

static void
write_all (int file, const char *text)
{
  unsigned long left = length (text);
  while (left > 0)
    {
      long written = system_call (SYS_write, file, (long) text, left, 0);
      if (written <= 0)
        end (2);
      text += written;
      left -= written;
    }
}

/* `stack' is what the kernel leaves for a new program: the number of arguments, the arguments, a
   null pointer, the environment, a null pointer. */
void
build (long *stack)
{
  char **environment = (char **) stack + 1 + stack[0] + 1;
  const char *out = value_of (environment, "out=");
  const char *text = value_of (environment, "text=");
  if (!out || !text)
    end (3);
  write_all (1, "hello from the builder\n");
  long file = system_call (SYS_openat, AT_FDCWD, (long) out, O_WRONLY | O_CREAT | O_EXCL, 0644);
  if (file < 0)
    end (4);
  write_all (file, text);
  end (0);
}
