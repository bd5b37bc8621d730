/*
 * Between a program and libc: what is written below one directory, in order.
 *
 * Loaded with LD_PRELOAD. record_io_start(root, log) appends each operation on
 * files below root to the file log, with its data; record_io_kill_at(n) ends the
 * process with SIGKILL just before its n-th operation; record_io_fail(n, count,
 * error) lets so many operations from the n-th on fail. One lock is held around
 * each operation and its line in the log, so the log has the order of the disk.
 *
 * A line is: kind, inode, offset or size, and the lengths of two texts and of the
 * data that follow it. Kinds: O created, W written, T set to a size, S synced,
 * D directory synced, R renamed, U unlinked, M directory made, X directory removed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[4096];
static size_t root_length;
static int log_file = -1;
static long killed_at, counted, fails_from, fails_until;
static int failure;

static ssize_t real_write(int file, const void *data, size_t size)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(file, data, size);
}

void record_io_start(const char *directory, const char *log)
{
    REAL(int, "open", const char *, int, ...);
    root_length = strlen(directory);
    memcpy(root, directory, root_length + 1);
    if (log) {
        log_file = real(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (log_file < 0) abort();
    }
}

void record_io_kill_at(long operation) { killed_at = operation; }

void record_io_fail(long operation, long count, int error)
{
    fails_from = operation;
    fails_until = operation + count;
    failure = error;
}

long record_io_count(void) { return counted; }

static int below(const char *path)
{
    return root_length && !strncmp(path, root, root_length)
        && (path[root_length] == '/' || !path[root_length]);
}

/* Where an open file is; returns whether that is below root. */
static int where(int file, char *path)
{
    char link[64];
    ssize_t length;
    if (!root_length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    length = readlink(link, path, 4095);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

/* The absolute path of a name that a call was given; returns whether it is below root. */
static int resolve(int directory, const char *name, char *path)
{
    if (!root_length) return 0;
    if (name[0] == '/') {
        if (strlen(name) > 4095) return 0;
        strcpy(path, name);
    } else {
        size_t length;
        if (directory == AT_FDCWD) {
            if (!getcwd(path, 4096)) return 0;
        } else if (!where(directory, path)) {
            return 0;
        }
        length = strlen(path);
        if (length + strlen(name) > 4094) return 0;
        path[length] = '/';
        strcpy(path + length + 1, name);
    }
    return below(path);
}

static void put(const void *data, size_t size)
{
    while (size) {
        ssize_t done = real_write(log_file, data, size);
        if (done < 0) abort();
        data = (const char *)data + done;
        size -= (size_t)done;
    }
}

static void say(char kind, unsigned long inode, long long at, const char *one, const char *two,
                const void *data, size_t size)
{
    char line[128];
    int length;
    if (log_file < 0) return;
    one = one ? one + root_length : "";
    two = two ? two + root_length : "";
    length = snprintf(line, sizeof line, "%c %lu %lld %zu %zu %zu\n", kind, inode, at,
                      strlen(one), strlen(two), size);
    put(line, (size_t)length);
    put(one, strlen(one));
    put(two, strlen(two));
    put(data, size);
}

static int count(void)
{
    counted++;
    if (counted == killed_at) kill(getpid(), SIGKILL);
    if (counted < fails_from || counted >= fails_until) return 0;
    errno = failure;
    return -1;
}

static int enter(void)
{
    pthread_mutex_lock(&lock);
    return count();
}

static void leave(void)
{
    int kept = errno;
    pthread_mutex_unlock(&lock);
    errno = kept;
}

static unsigned long inode_of(int file)
{
    struct stat found;
    return fstat(file, &found) ? 0 : (unsigned long)found.st_ino;
}

static int opened(int directory, const char *name, int flags, mode_t mode)
{
    char path[4096];
    struct stat found;
    int file = -1, there, fails = 0;
    REAL(int, "openat", int, const char *, int, ...);
    if (!(flags & (O_CREAT | O_TRUNC)) || !resolve(directory, name, path))
        return real(directory, name, flags, mode);
    pthread_mutex_lock(&lock);
    there = !stat(path, &found);
    if (!there || (flags & O_TRUNC)) fails = count();
    if (!fails) file = real(directory, name, flags, mode);
    if (file >= 0 && !there) say('O', inode_of(file), 0, path, NULL, "", 0);
    else if (file >= 0 && (flags & O_TRUNC)) say('T', inode_of(file), 0, NULL, NULL, "", 0);
    leave();
    return file;
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE return opened(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE return opened(at, name, flags, mode); }
int creat(const char *name, mode_t mode)
{
    return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *name, mode_t mode) { return creat(name, mode); }

ssize_t write(int file, const void *data, size_t size)
{
    char path[4096];
    ssize_t done;
    int fails;
    off_t at;
    struct stat found;
    if (!where(file, path) || fstat(file, &found) || !S_ISREG(found.st_mode))
        return real_write(file, data, size);
    fails = enter();
    at = lseek(file, 0, SEEK_CUR);
    if (fcntl(file, F_GETFL) & O_APPEND) {
        fstat(file, &found);
        at = found.st_size;
    }
    done = fails ? -1 : real_write(file, data, size);
    if (fails) errno = failure;
    if (done > 0) say('W', (unsigned long)found.st_ino, at, NULL, NULL, data, (size_t)done);
    leave();
    return done;
}

static ssize_t written_at(int file, const void *data, size_t size, off_t at)
{
    char path[4096];
    ssize_t done;
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off_t);
    if (!where(file, path)) return real(file, data, size, at);
    done = enter() ? -1 : real(file, data, size, at);
    if (done > 0) say('W', inode_of(file), at, NULL, NULL, data, (size_t)done);
    leave();
    return done;
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at)
{
    return written_at(file, data, size, at);
}
ssize_t pwrite64(int file, const void *data, size_t size, off_t at)
{
    return written_at(file, data, size, at);
}

ssize_t writev(int file, const struct iovec *parts, int count)
{
    char path[4096];
    ssize_t done = 0;
    int part;
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (!where(file, path)) return real(file, parts, count);
    for (part = 0; part < count; part++) {
        ssize_t one = write(file, parts[part].iov_base, parts[part].iov_len);
        if (one < 0) return done ? done : one;
        done += one;
        if ((size_t)one < parts[part].iov_len) break;
    }
    return done;
}

ssize_t pwritev(int file, const struct iovec *parts, int count, off_t at)
{
    char path[4096];
    ssize_t done = 0;
    int part;
    REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    if (!where(file, path)) return real(file, parts, count, at);
    for (part = 0; part < count; part++) {
        ssize_t one = written_at(file, parts[part].iov_base, parts[part].iov_len, at + done);
        if (one < 0) return done ? done : one;
        done += one;
        if ((size_t)one < parts[part].iov_len) break;
    }
    return done;
}
ssize_t pwritev64(int file, const struct iovec *parts, int count, off_t at)
{
    return pwritev(file, parts, count, at);
}

/* Copies that the kernel makes by itself are refused: whoever wants one reads and writes. */
ssize_t sendfile(int to, int from, off_t *at, size_t size)
{
    char path[4096];
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    if (!where(to, path)) return real(to, from, at, size);
    errno = EINVAL;
    return -1;
}
ssize_t sendfile64(int to, int from, off_t *at, size_t size)
{
    return sendfile(to, from, at, size);
}
ssize_t copy_file_range(int from, off_t *at, int to, off_t *to_at, size_t size, unsigned flags)
{
    char path[4096];
    REAL(ssize_t, "copy_file_range", int, off_t *, int, off_t *, size_t, unsigned);
    if (!where(to, path)) return real(from, at, to, to_at, size, flags);
    errno = ENOSYS;
    return -1;
}

static int cut(int file, off_t size)
{
    char path[4096];
    int result;
    REAL(int, "ftruncate64", int, off_t);
    if (!where(file, path)) return real(file, size);
    result = enter() ? -1 : real(file, size);
    if (!result) say('T', inode_of(file), size, NULL, NULL, "", 0);
    leave();
    return result;
}
int ftruncate(int file, off_t size) { return cut(file, size); }
int ftruncate64(int file, off_t size) { return cut(file, size); }

static int synced(int file, int (*real)(int))
{
    char path[4096];
    struct stat found;
    int result;
    if (!where(file, path) || fstat(file, &found)) return real(file);
    result = enter() ? -1 : real(file);
    if (!result) {
        if (S_ISDIR(found.st_mode)) say('D', 0, 0, path, NULL, "", 0);
        else say('S', (unsigned long)found.st_ino, 0, NULL, NULL, "", 0);
    }
    leave();
    return result;
}
int fsync(int file)
{
    REAL(int, "fsync", int);
    return synced(file, real);
}
int fdatasync(int file)
{
    REAL(int, "fdatasync", int);
    return synced(file, real);
}

int renameat(int from, const char *old, int to, const char *new)
{
    char one[4096], two[4096];
    int result;
    REAL(int, "renameat", int, const char *, int, const char *);
    if (!resolve(from, old, one) || !resolve(to, new, two)) return real(from, old, to, new);
    result = enter() ? -1 : real(from, old, to, new);
    if (!result) say('R', 0, 0, one, two, "", 0);
    leave();
    return result;
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int unlinkat(int at, const char *name, int flags)
{
    char path[4096];
    int result;
    REAL(int, "unlinkat", int, const char *, int);
    if (!resolve(at, name, path)) return real(at, name, flags);
    result = enter() ? -1 : real(at, name, flags);
    if (!result) say(flags & AT_REMOVEDIR ? 'X' : 'U', 0, 0, path, NULL, "", 0);
    leave();
    return result;
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int at, const char *name, mode_t mode)
{
    char path[4096];
    int result;
    REAL(int, "mkdirat", int, const char *, mode_t);
    if (!resolve(at, name, path)) return real(at, name, mode);
    result = enter() ? -1 : real(at, name, mode);
    if (!result) say('M', 0, 0, path, NULL, "", 0);
    leave();
    return result;
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
