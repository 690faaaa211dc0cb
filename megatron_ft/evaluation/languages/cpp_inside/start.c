/* Says that the program's box stands, then becomes the program: START PROGRAM IN OUT.

   A program's own code may run before its main, so that no main can be trusted to say it. */
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char** argv) {
    if (argc != 4 || write(atoi(argv[3]), "\1\0\0\0!", 5) != 5) return 1;
    execv(argv[1], argv + 1);
    return 127;
}
