/*
 * A shared object for daemonize_hook. C_Daemonize appends its parameter and the process id to the file that
 * HOOK_LOG names, and returns what HOOK_RETURNS says; HOOK_THREAD=1 has it leave a thread behind.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *wait_for_ever(void *unused)
{
    pause();
    return unused;
}

unsigned long C_Daemonize(const unsigned char *param, unsigned long length)
{
    const char *log = getenv("HOOK_LOG"), *returned = getenv("HOOK_RETURNS");
    FILE *file = log ? fopen(log, "a") : NULL;
    pthread_t thread;
    if (!file)
        return 5;
    fprintf(file, "%d %.*s\n", (int)getpid(), (int)length, (const char *)param);
    fclose(file);
    if (getenv("HOOK_THREAD") && pthread_create(&thread, NULL, wait_for_ever, NULL) != 0)
        return 6;
    return returned ? strtoul(returned, NULL, 0) : 0;
}
