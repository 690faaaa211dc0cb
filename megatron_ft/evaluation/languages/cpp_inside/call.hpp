// The tests' half: a call of the program's function, as the forwarder that the tests call spells it out.
#ifndef MEGATRON_FT_CALL
#define MEGATRON_FT_CALL

#include "wire.hpp"

namespace megatron_ft {

struct Call {
    Writer out;
    std::string message;
    Reader answer;

    template<class T> void pass(const T& value) { put_argument('v', value); }
    template<class T> void lend(const T& value) { put_argument('r', value); }  // wants it back as the call leaves it

    void run();  // returns when the program has answered, throws what it threw

    template<class T> T result() {
        T value;
        get(answer, value);
        return value;
    }

    template<class T> void take_back(T& value) { get(answer, value); }

private:
    template<class T> void put_argument(char how, const T& value) {
        out.raw(&how, 1);
        put(out, value);
    }
};

template<> inline void Call::result<void>() { answer.number(); }

}  // namespace megatron_ft

#endif
