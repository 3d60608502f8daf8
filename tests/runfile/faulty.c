/* Makes writes to run files fail: FAULTY_SHARE of them with FAULTY_ERRNO, while the file FAULTY_WHILE exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(int fd)
{
    static __thread unsigned seed;
    char link[64], path[4096];
    const char *during = getenv("FAULTY_WHILE"), *share = getenv("FAULTY_SHARE"), *number = getenv("FAULTY_ERRNO");
    if (!during || !share || !number || access(during, F_OK))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (!strstr(path, "run-") || !strstr(path, ".h5"))
        return 0;
    if (!seed)
        seed = (unsigned)getpid() ^ (unsigned)(size_t)&seed;
    if (rand_r(&seed) % 1000 >= 1000 * atof(share))
        return 0;
    errno = atoi(number);
    return 1;
}

#define SHIM(type, name, declared, given)                          \
    type name declared                                             \
    {                                                              \
        static type(*real) declared;                               \
        if (!real)                                                 \
            real = (type(*) declared)dlsym(RTLD_NEXT, #name);      \
        return fails(fd) ? -1 : real given;                        \
    }

SHIM(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size))
SHIM(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at))
SHIM(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at))
SHIM(int, ftruncate, (int fd, off_t size), (fd, size))
SHIM(int, ftruncate64, (int fd, off64_t size), (fd, size))
SHIM(int, fsync, (int fd), (fd))
