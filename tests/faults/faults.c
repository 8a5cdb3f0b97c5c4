/* Preloaded into a process under test: lets the n-th of some calls on matching paths fail with a chosen error.
 *
 * Armed by fault_arm(), or at the start by FAULT="call errno nth lasting pattern". A lasting fault fails every call from
 * the n-th on. Patterns are fnmatch's, over whole paths; what has only a descriptor is looked up in /proc.
 * FAULT_LOG names a file that gets a line for each write, fsync and rename: the call, its path, and a rename's new one.
 * fault_clock() puts the clock off by so many seconds, for this process alone.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char armed[32], pattern[4096];
static int error, lasting;
static long nth;
static atomic_long seen, hits;

void fault_arm(const char *call, int number, long first, int stays, const char *paths)
{
    armed[0] = 0;
    error = number, nth = first, lasting = stays;
    seen = 0;
    hits = 0;
    snprintf(pattern, sizeof pattern, "%s", paths);
    snprintf(armed, sizeof armed, "%s", call);
}

long fault_hits(void) { return hits; }

static int log_file = -1;

/* One line, in one write: threads do not mix. Paths as they were given, of descriptors whole. */
static void record(const char *call, const char *path, const char *to)
{
    char line[8400];
    if (log_file < 0 || !path)
        return;
    int kept = errno, length = snprintf(line, sizeof line, "%s\t%s\t%s\n", call, path, to);
    if (write(log_file, line, length) < 0)
        abort();
    errno = kept;
}

static atomic_long off;

void fault_clock(long seconds) { off = seconds; }

__attribute__((constructor)) static void start(void)
{
    char call[32], paths[4096];
    int number, stays;
    long first;
    const char *wish = getenv("FAULT");
    if (wish && sscanf(wish, "%31s %d %ld %d %4095[^\n]", call, &number, &first, &stays, paths) == 5)
        fault_arm(call, number, first, stays, paths);
    const char *file = getenv("FAULT_LOG");
    if (file)
        log_file = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* 1 and errno set when this call is to fail. */
static int fails(const char *call, const char *path)
{
    if (!armed[0] || !path || strcmp(call, armed) || fnmatch(pattern, path, 0))
        return 0;
    long number = ++seen;
    if (number != nth && !(lasting && number > nth))
        return 0;
    hits++;
    errno = error;
    return 1;
}

static int fails_on(const char *call, int descriptor)
{
    char link[64], path[4096];
    int recorded = log_file >= 0 && descriptor != log_file && (!strcmp(call, "write") || !strcmp(call, "fsync"));
    if (!recorded && (!armed[0] || strcmp(call, armed)))
        return 0;
    int kept = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = kept;
    if (length < 0)
        return 0;
    path[length] = 0;
    if (recorded && path[0] == '/')
        record(call, path, "");
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int fails_to_open(const char *path, int flags)
{
    return fails(flags & (O_WRONLY | O_RDWR | O_CREAT) ? "create" : "open", path);
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return fails_to_open(path, flags) ? -1 : REAL(name)(path, flags, mode);                                        \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                   \
    int name(int folder, const char *path, int flags, ...)                                                             \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        return fails_to_open(path, flags) ? -1 : REAL(name)(folder, path, flags, mode);                                \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_DESCRIPTOR(call, type, name, parameters, arguments)                                                         \
    type name parameters { return fails_on(call, descriptor) ? -1 : REAL(name) arguments; }
#define ON_PATH(call, name, parameters, arguments)                                                                     \
    int name parameters { return fails(call, path) ? -1 : REAL(name) arguments; }

ON_DESCRIPTOR("read", ssize_t, read, (int descriptor, void *to, size_t size), (descriptor, to, size))
ON_DESCRIPTOR("read", ssize_t, pread, (int descriptor, void *to, size_t size, off_t at), (descriptor, to, size, at))
ON_DESCRIPTOR("read", ssize_t, pread64, (int descriptor, void *to, size_t size, off64_t at), (descriptor, to, size, at))
ON_DESCRIPTOR("read", ssize_t, preadv, (int descriptor, const struct iovec *to, int count, off_t at),
              (descriptor, to, count, at))
ON_DESCRIPTOR("read", ssize_t, preadv64, (int descriptor, const struct iovec *to, int count, off64_t at),
              (descriptor, to, count, at))
ON_DESCRIPTOR("read", ssize_t, preadv2, (int descriptor, const struct iovec *to, int count, off_t at, int flags),
              (descriptor, to, count, at, flags))
ON_DESCRIPTOR("read", ssize_t, preadv64v2, (int descriptor, const struct iovec *to, int count, off64_t at, int flags),
              (descriptor, to, count, at, flags))
ON_DESCRIPTOR("write", ssize_t, write, (int descriptor, const void *from, size_t size), (descriptor, from, size))
ON_DESCRIPTOR("write", ssize_t, pwrite64, (int descriptor, const void *from, size_t size, off64_t at),
              (descriptor, from, size, at))
ON_DESCRIPTOR("write", ssize_t, writev, (int descriptor, const struct iovec *from, int count), (descriptor, from, count))
ON_DESCRIPTOR("write", ssize_t, pwrite, (int descriptor, const void *from, size_t size, off_t at),
              (descriptor, from, size, at))
ON_DESCRIPTOR("write", ssize_t, sendfile, (int descriptor, int from, off_t *at, size_t size),
              (descriptor, from, at, size))
ON_DESCRIPTOR("write", ssize_t, copy_file_range,
              (int from, off64_t *at, int descriptor, off64_t *to, size_t size, unsigned flags),
              (from, at, descriptor, to, size, flags))
ON_DESCRIPTOR("fsync", int, fsync, (int descriptor), (descriptor))
ON_DESCRIPTOR("fsync", int, fdatasync, (int descriptor), (descriptor))
ON_DESCRIPTOR("flock", int, flock, (int descriptor, int operation), (descriptor, operation))

#define TO_PATH(call, name, parameters, arguments)                                                                     \
    int name parameters { return record(call, path, to), fails(call, path) ? -1 : REAL(name) arguments; }
TO_PATH("rename", rename, (const char *path, const char *to), (path, to))
TO_PATH("rename", renameat, (int folder, const char *path, int other, const char *to), (folder, path, other, to))
TO_PATH("exchange", renameat2, (int folder, const char *path, int other, const char *to, unsigned flags),
        (folder, path, other, to, flags))
ON_PATH("link", link, (const char *path, const char *to), (path, to))
ON_PATH("mkdir", mkdir, (const char *path, mode_t mode), (path, mode))
ON_PATH("unlink", unlink, (const char *path), (path))
ON_PATH("unlink", unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
ON_PATH("unlink", rmdir, (const char *path), (path))
ON_PATH("stat", stat, (const char *path, struct stat *found), (path, found))
ON_PATH("stat", stat64, (const char *path, struct stat64 *found), (path, found))
ON_PATH("stat", fstatat64, (int folder, const char *path, struct stat64 *found, int flags), (folder, path, found, flags))
ON_PATH("statvfs", statvfs, (const char *path, struct statvfs *found), (path, found))
ON_PATH("statvfs", statvfs64, (const char *path, struct statvfs64 *found), (path, found))

/* The kernel's own clock is not put off: what it stamps is from before the clock was set. */
int clock_gettime(clockid_t which, struct timespec *found)
{
    static __typeof__(&clock_gettime) real;
    if (!real)
        real = REAL(clock_gettime);
    int failed = real(which, found);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        found->tv_sec += off;
    return failed;
}

int gettimeofday(struct timeval *found, void *zone)
{
    int failed = REAL(gettimeofday)(found, zone);
    if (!failed)
        found->tv_sec += off;
    return failed;
}

time_t time(time_t *found)
{
    time_t now = REAL(time)(NULL) + off;
    if (found)
        *found = now;
    return now;
}

int utimensat(int folder, const char *path, const struct timespec times[2], int flags)
{
    struct timespec now[2];
    if (fails("touch", path))
        return -1;
    if (off && !times) {
        clock_gettime(CLOCK_REALTIME, now);
        now[1] = now[0];
        times = now;
    }
    return REAL(utimensat)(folder, path, times, flags);
}

DIR *opendir(const char *path) { return fails("list", path) ? NULL : REAL(opendir)(path); }
