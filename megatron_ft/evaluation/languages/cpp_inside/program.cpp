// Runs a tested program in its box and answers calls of its function: PROGRAM IN OUT.
//
// Nothing here is worth reading for the program, and all that it gains by changing it is to answer calls. That the box
// stands is said before any of the program's own code can run.
#include "serve.hpp"

#include <csignal>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>
#include <unistd.h>

namespace megatron_ft {

void broken(const char*) { _exit(3); }
void not_carried(const char* what) { throw std::runtime_error(std::string("the result is ") + what); }
void too_long() { throw std::runtime_error("the result is too long"); }
void does_not_fit(long double) {}

// The most special standard class of an exception, as tests.cpp throws it again.
static char kind_of(const std::exception& problem) {
    if (dynamic_cast<const std::invalid_argument*>(&problem)) return 'i';
    if (dynamic_cast<const std::out_of_range*>(&problem)) return 'o';
    if (dynamic_cast<const std::length_error*>(&problem)) return 'l';
    if (dynamic_cast<const std::domain_error*>(&problem)) return 'd';
    if (dynamic_cast<const std::logic_error*>(&problem)) return 'L';
    if (dynamic_cast<const std::runtime_error*>(&problem)) return 'R';
    if (dynamic_cast<const std::bad_alloc*>(&problem)) return 'b';
    return 'e';
}

static std::string thrown(char kind, const char* what) {
    Writer out;
    out.raw("!", 1);
    out.raw(&kind, 1);
    put(out, std::string(what).substr(0, 2000));
    return out.bytes;
}

static std::string answered(const std::string& message) {
    Reader in = {message.data(), message.data() + message.size(), 0};
    Writer out;
    out.raw("=", 1);
    try {
        answer(in, out);
    } catch (const std::exception& problem) {
        return thrown(kind_of(problem), problem.what());
    } catch (...) {
        return thrown('?', "");
    }
    return out.bytes;
}

}  // namespace megatron_ft

int main(int, char** argv) {
    int in = std::atoi(argv[1]), out = std::atoi(argv[2]);
    std::signal(SIGPIPE, SIG_IGN);
    std::string message;
    while (megatron_ft::read_message(in, message) && megatron_ft::write_message(out, megatron_ft::answered(message))) {}
}
