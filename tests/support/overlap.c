/*
 * overlap LIBRARY: has a module that gives back its input (nullmodule) encrypt data whose output lies apart
 * from it, in the same place, or partly in it, in buffers that are as long as the output or longer.
 * Checks the output, and that no byte outside of it was written. (A library that writes output while it still reads the
 * input is found out only if it does so before it has sent the input.) Prints `WHAT SIZE ROOM DISTANCE` for
 * each case that goes wrong, and at the end how many were tried. The last one has an output in pages that become
 * writable when the program writes to them, which the kernel cannot do for it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pkcs11.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SPACE (9 << 20)

static CK_BYTE data[SPACE], memory[SPACE], before[SPACE], pattern[SPACE];
static const CK_ULONG SIZES[] = { 1, 1000, 16340, 40003, 65535, 65536, 65537, 65538, 131071, 1 << 20, (2 << 20) + 1 };

static CK_FUNCTION_LIST_PTR p11;
static CK_SESSION_HANDLE session;
static int tried, wrong;

/* Encrypts `size` bytes at `from` of the memory into `room` bytes at `to`, in one call or as a part. */
static void encrypt(int is_part, CK_ULONG size, CK_ULONG room, CK_ULONG from, CK_ULONG to)
{
    CK_MECHANISM mechanism = { CKM_AES_ECB, NULL, 0 };
    CK_ULONG length = room, last = SPACE;
    CK_BYTE *in = memory + from, *out = memory + to;
    memcpy(memory, pattern, SPACE);
    memcpy(in, data, size);
    memcpy(before, memory, SPACE);
    CK_RV rv = p11->C_EncryptInit(session, &mechanism, 1);
    if (rv == CKR_OK)
        rv = is_part ? p11->C_EncryptUpdate(session, in, size, out, &length) : p11->C_Encrypt(session, in, size, out, &length);
    tried++;
    int is_right;
    if (room < size) {
        is_right = rv == CKR_BUFFER_TOO_SMALL && length == size && memcmp(memory, before, SPACE) == 0;
    } else {
        is_right = rv == CKR_OK && length == size && memcmp(out, data, size) == 0;
        memcpy(before + to, data, size);
        is_right = is_right && memcmp(memory, before, SPACE) == 0;
    }
    if (!is_right) {
        wrong++;
        printf("%s %lu %lu %ld: 0x%lx, %lu\n", is_part ? "C_EncryptUpdate" : "C_Encrypt", size, room, (long)(to - from), rv,
               length);
    }
    if (rv == CKR_BUFFER_TOO_SMALL)
        is_part ? p11->C_EncryptUpdate(session, in, size, out, &length) : p11->C_Encrypt(session, in, size, out, &length);
    if (is_part)
        p11->C_EncryptFinal(session, memory, &last);
}

static long page;
static volatile sig_atomic_t faults;

static void make_writable(int signal, siginfo_t *info, void *context)
{
    (void)context;
    faults++;
    CK_BYTE *address = (CK_BYTE *)((unsigned long)info->si_addr & -page);
    if (mprotect(address, page, PROT_READ | PROT_WRITE) != 0)
        _exit(128 + signal);
}

/* Encrypts into pages that only become writable in a signal handler. */
static void encrypt_into_protected_pages(CK_ULONG size)
{
    struct sigaction action = { .sa_sigaction = make_writable, .sa_flags = SA_SIGINFO }, old;
    CK_MECHANISM mechanism = { CKM_AES_ECB, NULL, 0 };
    CK_ULONG length = size;
    page = sysconf(_SC_PAGESIZE);
    CK_BYTE *out = mmap(NULL, size + page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &action, &old);
    CK_RV rv = p11->C_EncryptInit(session, &mechanism, 1);
    if (rv == CKR_OK)
        rv = p11->C_Encrypt(session, data, size, out, &length);
    tried++;
    if (rv != CKR_OK || length != size || memcmp(out, data, size) != 0 || faults == 0) {
        wrong++;
        printf("into protected pages %lu: 0x%lx, %lu, %d faults\n", size, rv, length, (int)faults);
    }
    sigaction(SIGSEGV, &old, NULL);
    munmap(out, size + page);
}

int main(int argc, char **argv)
{
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    CK_C_GetFunctionList list = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    if (!list || list(&p11) != CKR_OK || p11->C_Initialize(NULL) != CKR_OK)
        return 2;
    if (p11->C_OpenSession(0, CKF_SERIAL_SESSION, NULL, NULL, &session) != CKR_OK)
        return 3;
    for (CK_ULONG i = 0; i < SPACE; i++) {
        data[i] = (CK_BYTE)(i * 2654435761u >> 13);
        pattern[i] = (CK_BYTE)(0xee ^ i);
    }
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        CK_ULONG size = SIZES[i], middle = 4 << 20;
        for (int is_part = 0; is_part <= 1; is_part++) {
            /* apart, touching, in place, and partly in each other, from either side */
            CK_ULONG from[] = { 0, middle - size, middle + size, middle, middle - 1, middle + 1, middle - size / 2,
                                middle + size / 2 };
            for (size_t k = 0; k < sizeof from / sizeof *from; k++) {
                encrypt(is_part, size, size, from[k], middle);
                encrypt(is_part, size, size + 5, from[k], middle);
                encrypt(is_part, size, 3 << 20, from[k], middle);
            }
            encrypt(is_part, size, size - 1, 0, middle);
        }
    }
    encrypt_into_protected_pages(1 << 20);
    p11->C_Finalize(NULL);
    printf("%d tried, %d wrong\n", tried, wrong);
    return wrong ? 1 : 0;
}
