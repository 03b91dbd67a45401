/* Prints how many kHz this machine's time stamp counter runs at. */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(void) {
    long long ticks = __rdtsc(), time = now();
    struct timespec pause = {0, 200000000};
    nanosleep(&pause, NULL);
    ticks = __rdtsc() - ticks;
    time = now() - time;
    printf("%lld\n", (long long)((double)ticks * 1e6 / time + 0.5));
    return 0;
}
