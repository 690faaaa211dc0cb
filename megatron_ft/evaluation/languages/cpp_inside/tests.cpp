// Runs one problem's tests in a box of their own: TESTS [NUMBER] IN OUT REPORT, the token on stdin.
//
// The tests keep their own main; what stands here runs before and after it. The report is as evaluation/case.py has it.
#include "call.hpp"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <exception>
#include <new>
#include <stdexcept>
#include <typeinfo>
#include <unistd.h>

namespace megatron_ft {

const size_t REASON_BYTES = 8192;
static int incoming, outgoing, verdict;
static unsigned calls;
static char token[64];
static size_t token_bytes;

[[noreturn]] static void leave(const std::string& kind, const std::string& reason) {
    std::string said = kind + "\n" + reason.substr(0, REASON_BYTES);
    ssize_t done = write(verdict, said.data(), said.size());
    _exit(done < 0 ? 2 : 1);
}

static std::string where() {
    return calls == 0 ? "before the first call" : "at call " + std::to_string(calls);
}

void broken(const char* what) { leave("refused", std::string("the program sent ") + what + ", " + where()); }
void not_carried(const char* what) { leave("broken", std::string("the tests pass ") + what); }

// After the first call they may hold what the program returned, which must not stop the evaluator.
void too_long() { leave(calls == 0 ? "broken" : "failed", "the tests pass values that are too long, " + where()); }

void does_not_fit(long double number) {
    char text[64];
    std::snprintf(text, sizeof text, "%.20Lg", number);
    leave("failed", std::string("the program's answer ") + text + " is no value of the declared type, " + where());
}

[[noreturn]] static void throw_again(char kind, const std::string& what) {
    switch (kind) {
        case 'i': throw std::invalid_argument(what);
        case 'o': throw std::out_of_range(what);
        case 'l': throw std::length_error(what);
        case 'd': throw std::domain_error(what);
        case 'L': throw std::logic_error(what);
        case 'R': throw std::runtime_error(what);
        case 'b': throw std::bad_alloc();
        default: throw std::runtime_error(what.empty() ? "what is no std::exception" : what);
    }
}

void Call::run() {
    if (!write_message(outgoing, out.bytes)) leave("ended", "");
    ++calls;
    if (!read_message(incoming, message)) leave("ended", "");
    answer = {message.data(), message.data() + message.size(), 0};
    if (answer.tag() == '=') return;
    char kind = answer.tag();
    std::string what;
    get(answer, what);
    throw_again(kind, what);
}

[[noreturn]] static void uncaught() {
    std::string said = "an exception";
    try {
        if (std::current_exception()) throw;
    } catch (const std::exception& problem) {
        char* name = abi::__cxa_demangle(typeid(problem).name(), nullptr, nullptr, nullptr);
        said = std::string(name == nullptr ? "std::exception" : name) + ": " + problem.what();
    } catch (...) {
    }
    leave("failed", said + ", " + where());
}

static void crashed(int signal) {
    leave("failed", "the tests crashed with signal " + std::to_string(signal) + " " + where()
                        + ": an answer is not of the shape that they expect");
}

// Runs last of all; a main that ends without `return` leaves with 0.
static void ended(int status, void*) {
    if (status != 0) leave("failed", "the tests left with status " + std::to_string(status));
    if (write(verdict, token, token_bytes) < 0) _exit(2);
}

// Before the constructors of the tests' own globals, which have no priority.
__attribute__((constructor(101))) static void begin(int argc, char** argv) {
    if (argc < 4) _exit(2);
    incoming = std::atoi(argv[argc - 3]), outgoing = std::atoi(argv[argc - 2]), verdict = std::atoi(argv[argc - 1]);
    if (write(verdict, "ready\n", 6) != 6) _exit(2);
    token_bytes = fread(token, 1, sizeof token, stdin);
    std::signal(SIGPIPE, SIG_IGN);
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) std::signal(signal, crashed);
    std::set_terminate(uncaught);
    on_exit(ended, nullptr);
    std::string hello;
    if (!read_message(incoming, hello) || hello != "!") {
        ssize_t done = write(verdict, "not started\n", 12);
        _exit(done < 0 ? 2 : 1);
    }
}

}  // namespace megatron_ft

// What assert calls; it stands before the C library's when the program is linked.
extern "C" void __assert_fail(const char* text, const char*, unsigned line, const char*) noexcept {
    megatron_ft::leave("failed", std::string("assert (") + text + "), at test line " + std::to_string(line));
}
