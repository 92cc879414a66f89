/* Preloaded into a program, it runs main() on a second thread and ends the first one. The
 * process lives on, and /proc shows the state of the first thread: a zombie. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

typedef int main_function(int, char **, char **);
typedef int start_function(main_function *, int, char **, void (*)(void), void (*)(void),
			   void (*)(void), void *);

static main_function *program;
static int argument_count;
static char **arguments, **variables;

static void *run_program(void *unused)
{
	(void)unused;
	exit(program(argument_count, arguments, variables));
}

static int end_main_thread(int argc, char **argv, char **envp)
{
	pthread_t thread;
	argument_count = argc;
	arguments = argv;
	variables = envp;
	if (pthread_create(&thread, NULL, run_program, NULL))
		return 1;
	pthread_exit(NULL);
}

int __libc_start_main(main_function *main, int argc, char **argv, void (*init)(void),
		      void (*fini)(void), void (*rtld_fini)(void), void *stack_end)
{
	start_function *start;
	*(void **)&start = dlsym(RTLD_NEXT, "__libc_start_main");
	program = main;
	return start(end_main_thread, argc, argv, init, fini, rtld_fini, stack_end);
}
