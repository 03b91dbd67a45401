/* The only process of a lab guest: makes the load it is told to make.
 *
 * It starts as /init of an initramfs, with no other program beside it. The first load comes on the kernel's command
 * line (the kernel hands unknown KEY=VALUE words to init as its environment), later ones on the serial console:
 *
 *     load ID KIND CPU DIRTY TRAFFIC\n     answered by     ok ID KIND CPU DIRTY TRAFFIC\n
 *
 * ID       any number; the answer repeats it, so that the asker knows its own answer
 * KIND     share: of each period, the given part of the wall time is spent computing, from a moment on that steps through
 *                 the period (what would pass its end is done at its beginning); what could not be run is not caught up
 *          work:  from such a moment on the given amount of computing is owed as well; what could not be run is caught up
 *                 (BACKLOG bound)
 * CPU      thousandths of one CPU, in all: spread evenly over the vCPUs
 * DIRTY    KiB of memory dirtied per second
 * TRAFFIC  KiB sent per second
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PERIODS 5                  /* a second */
#define PERIOD (1000000000LL / PERIODS) /* ns */
#define BACKLOG (5 * 1000000000LL) /* ns of computing owed at most */
/* Two readings of the clock in a busy loop lie microseconds apart. Where they lie further apart than this, somebody else
 * ran on the host's CPU meanwhile (a scheduler's slice lasts milliseconds): that time was not ours and is not counted. */
#define STOLEN 1000000LL /* ns */
#define GOLDEN_RATIO 0.6180339887498949
#define RHYTHMS 31 /* of guests, which the lab numbers */
#define PAGE 4096
#define FRAME 1400
#define ETHERTYPE 0x88b5 /* IEEE 802, for local experiments: whoever receives such a frame drops it */

struct load {
    int work;
    long cpu, dirty, traffic;
};

static struct load wanted;
static unsigned changes;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long cpus, rhythm;
static volatile char *memory;
static size_t memory_pages;

static long long now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(long long moment) {
    struct timespec wake = {moment / 1000000000LL, moment % 1000000000LL};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
}

/* Computes until `budget` ns were ours or the clock says `end`; returns the ns that were ours. */
static long long compute(long long budget, long long end) {
    long long done = 0, before = now(CLOCK_MONOTONIC);
    volatile uint32_t sum = 1;
    while (done < budget && before < end) {
        for (int i = 0; i < 500; i++)
            sum = sum * 1664525u + 1013904223u;
        long long after = now(CLOCK_MONOTONIC);
        if (after - before < STOLEN)
            done += after - before;
        before = after;
    }
    return done;
}

static void dirty(long pages) {
    static size_t next;
    for (; pages > 0; pages--, next = (next + 1) % memory_pages)
        memory[next * PAGE]++;
}

static int wire = -1;
static struct sockaddr_ll manager = {.sll_family = AF_PACKET, .sll_halen = 6, .sll_addr = {2, 0x76, 0x70, 0, 0, 0xfe}};

static void plug_in(void) {
    struct ifreq request = {.ifr_name = "eth0"};
    wire = socket(AF_PACKET, SOCK_DGRAM, 0);
    if (ioctl(wire, SIOCGIFFLAGS, &request) < 0)
        return; /* no network card */
    short flags = request.ifr_flags | IFF_UP;
    ioctl(wire, SIOCGIFHWADDR, &request); /* 10.79.X.Y, by the end of its MAC: the kernel answers pings */
    const unsigned char *mac = (const unsigned char *)request.ifr_hwaddr.sa_data;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(10u << 24 | 79u << 16 | (unsigned)mac[4] << 8 | mac[5])};
    memcpy(&request.ifr_addr, &address, sizeof address);
    ioctl(wire, SIOCSIFADDR, &request);
    request.ifr_flags = flags;
    ioctl(wire, SIOCSIFFLAGS, &request);
    ioctl(wire, SIOCGIFINDEX, &request);
    manager.sll_ifindex = request.ifr_ifindex;
    manager.sll_protocol = htons(ETHERTYPE);
}

static void transmit(long bytes) {
    static char frame[FRAME];
    for (; bytes > 0; bytes -= FRAME)
        sendto(wire, frame, bytes < FRAME ? bytes : FRAME, 0, (struct sockaddr *)&manager, sizeof manager);
}

/* One vCPU's part of the load, period by period. The first vCPU dirties the memory and sends the traffic as well; the
 * CPU time of that counts as part of its CPU load. */
static void *vcpu(void *argument) {
    long number = (long)argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(number, &set);
    sched_setaffinity(0, sizeof set, &set);

    unsigned seen = 0, dice = (unsigned)now(CLOCK_REALTIME);
    long long owed = 0, start = 0, dirt = 0, bytes = 0;
    long long begin = rand_r(&dice) % PERIOD;
    long long stride = (long long)((rhythm + RHYTHMS * number) * GOLDEN_RATIO * PERIOD) % PERIOD;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (seen == changes && !(wanted.cpu || (!number && (wanted.dirty || wanted.traffic)))) {
            pthread_cond_wait(&changed, &lock); /* an idle guest costs nothing */
            start = 0;
        }
        struct load load = wanted;
        if (seen != changes)
            owed = dirt = bytes = 0;
        seen = changes;
        pthread_mutex_unlock(&lock);

        if (!start || now(CLOCK_MONOTONIC) - start > PERIOD)
            start = now(CLOCK_MONOTONIC); /* the first period, or one that began too late */
        long long end = start + PERIOD, budget = PERIOD * load.cpu / 1000 / cpus;
        /* Each vCPU steps by a stride of its own, so that any two meet as often as chance would have it, and soon: with
         * drawn moments it would take minutes to measure what they make of a CPU together. Multiples of the golden ratio
         * differ by multiples of it, which of all numbers are the furthest from coming back to where they were. */
        begin = (begin + stride) % PERIOD;
        if (load.work) {
            sleep_until(start + begin);
            owed += budget;
            if (owed > BACKLOG)
                owed = BACKLOG;
            end += (begin + stride) % PERIOD; /* until the next amount comes */
        } else {
            long long over = begin + budget - PERIOD;
            if (over > 0)
                compute(PERIOD, start + over);
            else
                end = start + begin + budget;
            sleep_until(start + begin);
            owed = PERIOD; /* the clock ends it */
        }
        if (number == 0) {
            long long before = now(CLOCK_THREAD_CPUTIME_ID);
            dirt += load.dirty * 1024 / PERIODS;
            dirty(dirt / PAGE);
            dirt %= PAGE;
            transmit(load.traffic * 1024 / PERIODS);
            owed -= now(CLOCK_THREAD_CPUTIME_ID) - before;
        }
        owed -= compute(owed, end);
        start += PERIOD;
        sleep_until(start);
    }
    return NULL;
}

static void set_load(struct load load) {
    pthread_mutex_lock(&lock);
    wanted = load;
    changes++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* The builder of the initramfs numbers the modules in the order in which they need each other. */
static void load_modules(void) {
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, by_name);
    for (int i = 0; i < count; i++) {
        char path[300];
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            syscall(SYS_finit_module, open(path, O_RDONLY), "", 0);
    }
}

static long from_command_line(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

int main(void) {
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    load_modules();
    plug_in();

    int console = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
    struct termios raw;
    tcgetattr(console, &raw);
    cfmakeraw(&raw);
    raw.c_lflag |= ICANON; /* whole lines */
    raw.c_iflag |= ICRNL;
    tcsetattr(console, TCSANOW, &raw);

    struct sysinfo info;
    sysinfo(&info);
    memory_pages = info.totalram * info.mem_unit / 2 / PAGE;
    memory = mmap(NULL, memory_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (cpus < 1)
        cpus = 1;
    rhythm = from_command_line("vp_rhythm");

    const char *kind = getenv("vp_kind");
    set_load((struct load){kind && !strcmp(kind, "work"), from_command_line("vp_cpu"), from_command_line("vp_dirty"),
                           from_command_line("vp_traffic")});
    for (long i = 0; i < cpus; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, vcpu, (void *)i);
    }
    dprintf(console, "ready\n");

    FILE *lines = fdopen(console, "r");
    char line[200], word[8];
    for (;;) {
        struct load load;
        unsigned long id;
        if (!fgets(line, sizeof line, lines))
            clearerr(lines);
        else if (sscanf(line, "load %lu %7s %ld %ld %ld", &id, word, &load.cpu, &load.dirty, &load.traffic) == 5) {
            load.work = !strcmp(word, "work");
            set_load(load);
            dprintf(console, "ok %lu %s %ld %ld %ld\n", id, word, load.cpu, load.dirty, load.traffic);
        }
    }
}
