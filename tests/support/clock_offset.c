/* A wrong wall clock: preloaded into a process, it adds the seconds in the file that
 * LOCKS_CLOCK_OFFSET names; the file may change at any time. Monotonic clocks are not changed.
 * Waits until a time of the wall clock end when they would have ended without it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void find_offset(void)
{
	const char *path = getenv("LOCKS_CLOCK_OFFSET");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (file < 0)
		return;
	void *map = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
	if (map != MAP_FAILED)
		offset = map;
	close(file);
}

static int64_t shift(void)
{
	return offset ? *offset : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = (int)syscall(SYS_clock_gettime, clock, now);
	if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += shift();
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;
	(void)zone;
	clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *now)
{
	struct timespec precise;
	clock_gettime(CLOCK_REALTIME, &precise);
	if (now)
		*now = precise.tv_sec;
	return precise.tv_sec;
}

/* Which clock a condition waits on cannot be asked; no machine has been up since 1970. */
static struct timespec true_moment(const struct timespec *until)
{
	struct timespec moment = *until;
	if (moment.tv_sec > 1000000000)
		moment.tv_sec -= shift();
	return moment;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
			   const struct timespec *restrict until)
{
	static int (*wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
	if (!wait) {
		/* There is an older one of the same name on some machines. */
		void *found = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
		if (!found)
			found = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
		*(void **)&wait = found;
	}
	struct timespec moment = true_moment(until);
	return wait(condition, mutex, &moment);
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
			   clockid_t clock, const struct timespec *restrict until)
{
	static int (*wait)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
	if (!wait)
		*(void **)&wait = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
	struct timespec moment = true_moment(until);
	return wait(condition, mutex, clock, &moment);
}
