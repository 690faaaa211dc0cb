// The program's half: what answers calls of its entry point. MEGATRON_FT_SERVE stands behind the program's text.
//
// The names of the macro are long because the program's own macros apply to them (`#define int long long`, `#define N 5`).
#ifndef MEGATRON_FT_SERVE_HEADER
#define MEGATRON_FT_SERVE_HEADER

#include "wire.hpp"

namespace megatron_ft {

void answer(Reader& in, Writer& out);  // the program's text ends with this one

template<class... T> struct Parameters {
    static const size_t count = sizeof...(T);
};
template<class... T, class R> Parameters<T...> parameters_of(R (*)(T...), ...);

template<bool B, class T, class U> struct Choice { typedef T type; };
template<class T, class U> struct Choice<false, T, U> { typedef U type; };

// How a kept argument is handed over: as a lvalue, which values, references and constant references take, or moved.
template<class T, class P, bool moved = std::is_rvalue_reference<P>::value> struct Passed { typedef T& type; };
template<class T, class P> struct Passed<T, P, true> { typedef T&& type; };

template<class R> struct Result {
    template<class E, class... T> static void of(Writer& out, T&&... values) { put(out, E::call(static_cast<T&&>(values)...)); }
};
template<> struct Result<void> {
    template<class E, class... T> static void of(Writer& out, T&&... values) {
        E::call(static_cast<T&&>(values)...);
        put(out, false);
    }
};

inline void put_back(Writer&, const bool*) {}
template<class T, class... U> void put_back(Writer& out, const bool* wanted, const T& value, const U&... others) {
    if (*wanted) put(out, value);
    put_back(out, wanted + 1, others...);
}

// Calls with the arguments that are kept in `values`; writes the result and those arguments that the tests want back.
template<class E, class P> struct Answer;
template<class E, class... P> struct Answer<E, Parameters<P...>> {
    template<class... T> static void go(Writer& out, const bool* back, T&... values) {
        typedef decltype(E::call(std::declval<typename Passed<T, P>::type>()...)) R;
        Result<typename std::decay<R>::type>::template of<E>(out, static_cast<typename Passed<T, P>::type>(values)...);
        put_back(out, back, values...);
    }
};

// Reads the arguments that are left, one after the other.
template<class E, class All, class Left> struct Step;
template<class E, class All> struct Step<E, All, Parameters<>> {
    template<class... T> static void go(Reader&, Writer& out, bool* back, size_t, T&... values) {
        Answer<E, All>::go(out, back, values...);
    }
};
template<class E, class All, class P, class... Left> struct Step<E, All, Parameters<P, Left...>> {
    template<class... T> static void go(Reader& in, Writer& out, bool* back, size_t index, T&... values) {
        typename std::decay<P>::type value;
        back[index] = in.tag() == 'r';
        get(in, value);
        Step<E, All, Parameters<Left...>>::go(in, out, back, index + 1, values..., value);
    }
};

template<class E, class P> void answer_with(Reader& in, Writer& out) {
    bool back[P::count + 1];
    Step<E, P, P>::go(in, out, back, 0);
}

}  // namespace megatron_ft

// The parameters are the program's own where its function has one meaning and as many as are declared (vector<double> for
// a declared vector<float>), else the declared ones, so that overloads and defaults work as in a call by the tests.
#define MEGATRON_FT_SERVE(MEGATRON_FT_NAME, ...) \
namespace megatron_ft { \
struct Entry { \
    template<class... MEGATRON_FT_T> static auto call(MEGATRON_FT_T&&... megatron_ft_values) \
        -> decltype(::MEGATRON_FT_NAME(static_cast<MEGATRON_FT_T&&>(megatron_ft_values)...)) { \
        return ::MEGATRON_FT_NAME(static_cast<MEGATRON_FT_T&&>(megatron_ft_values)...); \
    } \
}; \
template<class MEGATRON_FT_T> auto entry_parameters(MEGATRON_FT_T* megatron_ft_dependent) \
    -> decltype(parameters_of(::MEGATRON_FT_NAME, megatron_ft_dependent)); \
template<class MEGATRON_FT_T> MEGATRON_FT_T entry_parameters(...); \
void answer(Reader& megatron_ft_in, Writer& megatron_ft_out) { \
    typedef Parameters<__VA_ARGS__> Declared; \
    typedef decltype(entry_parameters<Declared>(static_cast<Declared*>(nullptr))) Found; \
    answer_with<Entry, Choice<Found::count == Declared::count, Found, Declared>::type>(megatron_ft_in, megatron_ft_out); \
} \
}

#endif
