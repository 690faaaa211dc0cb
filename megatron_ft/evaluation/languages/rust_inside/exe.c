/* Preloaded into rustc, which asks /proc/self/exe where it is: a box has no /proc, and rustc 1.63 (Debian 12) then panics even
   when it is told its sysroot. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t readlink(const char* path, char* place, size_t room) {
    const char* told = getenv("MEGATRON_FT_EXE");
    if (told == NULL || strcmp(path, "/proc/self/exe") != 0)
        return ((ssize_t (*)(const char*, char*, size_t)) dlsym(RTLD_NEXT, "readlink"))(path, place, room);
    size_t count = strlen(told) < room ? strlen(told) : room;
    memcpy(place, told, count);
    return (ssize_t) count;
}
