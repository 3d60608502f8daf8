/* A write of HDF5 that never comes back, with Python's lock in its hands: from when the file STUCK_WHILE exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static void stuck(int fd)
{
    char link[64], path[4096];
    const char *during = getenv("STUCK_WHILE");
    if (!during || access(during, F_OK))
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    int (*take_lock)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "PyGILState_Ensure");
    if (!strstr(path, "mpifarm-run-") || !take_lock)
        return;
    take_lock(); /* h5py lets go of it in some calls, and not in others */
    for (;;)
        pause();
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real)
        real = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    stuck(fd);
    return real(fd, data, size, at);
}
