/* Stands in front of libc and steps CLOCK_REALTIME for the processes that load it, while CLOCK_MONOTONIC goes on.
 *
 * The file that VIRTPOISE_CLOCK names is mapped: it has the nanoseconds by which the clock is ahead, as a signed number
 * of 64 bits. Whoever writes there steps the clock of all of these processes at that moment. A wait until a moment of
 * this clock goes by the kernel's, so its end is moved by as much; a step in the midst of such a wait does not reach it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static volatile int64_t *ahead;

__attribute__((constructor)) static void start(void) {
    int file = open(getenv("VIRTPOISE_CLOCK"), O_RDONLY | O_CLOEXEC);
    if (file < 0 || (ahead = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0)) == MAP_FAILED)
        abort();
    close(file);
}

static struct timespec moved(struct timespec at, int64_t by) {
    int64_t all = at.tv_sec * SECOND + at.tv_nsec + by;
    return (struct timespec){all / SECOND, all % SECOND};
}

static int64_t now_ahead(void) { return ahead ? *ahead : 0; } /* other libraries may start before this one */

int clock_gettime(clockid_t clock, struct timespec *at) {
    REAL(clock_gettime);
    int result = real(clock, at);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *at = moved(*at, now_ahead());
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    (void)zone;
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    *at = (struct timeval){found.tv_sec, found.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *at) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    return at ? (*at = found.tv_sec) : found.tv_sec;
}

/* A condition may go by CLOCK_MONOTONIC, which counts from a boot. */
static clockid_t clock_of(const struct timespec *at) { return at->tv_sec > 1000000000 ? CLOCK_REALTIME : CLOCK_MONOTONIC; }

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    clockid_t clock = clock_of(until);
    struct timespec end = moved(*until, clock == CLOCK_REALTIME ? -now_ahead() : 0);
    return pthread_cond_clockwait(condition, mutex, clock, &end);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    struct timespec end = moved(*until, -now_ahead());
    return sem_clockwait(semaphore, CLOCK_REALTIME, &end);
}
