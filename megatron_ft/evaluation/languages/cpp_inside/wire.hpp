// Values on the pipes between a C++ program and the tests of its problem, for both halves.
//
// A message is its length (4 bytes, little endian) and its values; a value is a tag and its bytes:
//     i u f d e   a number as long long, unsigned long long, float, double, long double
//     s           a string: its length and its bytes
//     [           a sequence, set or map: how many values, then these; a map's are pairs
//     (           a pair or tuple: how many values, then these
//     a           a boost::any: the code of its type, then the value
// Types are known on both sides, so reading never does more than fill a value of the type that is wanted.
// wire.cpp is the part that needs no template; it is compiled once for all programs, as this header is.
#ifndef MEGATRON_FT_WIRE
#define MEGATRON_FT_WIRE

#include <cstddef>
#include <deque>
#include <limits>
#include <list>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include <boost/any.hpp>

namespace megatron_ft {

// The halves differ in what follows (program.cpp, tests.cpp): the tests report it and leave.
[[noreturn]] void broken(const char* what);       // a message of the other side breaks the protocol
[[noreturn]] void not_carried(const char* what);  // a value of this side cannot be sent: its type is not carried
[[noreturn]] void too_long();                     // nor can these: they are more than a message holds
void does_not_fit(long double number);            // a number is no value of the wanted type; may return: it is converted

struct Writer {
    std::string bytes;
    void raw(const void* data, size_t count);
    void head(char tag, size_t count);
};

struct Reader {
    const char* at;
    const char* end;
    unsigned depth;
    void raw(void* data, size_t count);
    char tag();
    size_t head(char tag);  // how many values or bytes follow; never more than bytes are left
    long double number();   // holds every number of the other types exactly
};

bool read_message(int descriptor, std::string& message);  // false at the end of the pipe
bool write_message(int descriptor, const std::string& message);

void put_signed(Writer& out, long long value);
void put_unsigned(Writer& out, unsigned long long value);
void put(Writer& out, float value);
void put(Writer& out, double value);
void put(Writer& out, long double value);
void put(Writer& out, const std::string& value);
void put(Writer& out, const char* value);
void put(Writer& out, const boost::any& value);
void get(Reader& in, std::string& value);
void get(Reader& in, const char*& value);
void get(Reader& in, boost::any& value);

template<class T> typename std::enable_if<std::is_integral<T>::value>::type put(Writer& out, const T& value) {
    if (std::is_signed<T>::value) put_signed(out, static_cast<long long>(value));
    else put_unsigned(out, static_cast<unsigned long long>(value));
}

template<class T> typename std::enable_if<std::is_integral<T>::value>::type get(Reader& in, T& value) {
    long double number = in.number();
    if (!(number >= std::numeric_limits<T>::min() && number <= std::numeric_limits<T>::max())
        || number != static_cast<long double>(static_cast<T>(number)))
        does_not_fit(number);
    value = static_cast<T>(number);
}

template<class T> typename std::enable_if<std::is_floating_point<T>::value>::type get(Reader& in, T& value) {
    value = static_cast<T>(in.number());
}

// Declared before any is defined, so that each finds the others.
template<class T, class U> void put(Writer& out, const std::pair<T, U>& value);
template<class T, class U> void get(Reader& in, std::pair<T, U>& value);
template<class... T> void put(Writer& out, const std::tuple<T...>& value);
template<class... T> void get(Reader& in, std::tuple<T...>& value);
#define MEGATRON_FT_CONTAINER(CONTAINER) \
    template<class... T> void put(Writer& out, const std::CONTAINER<T...>& value); \
    template<class... T> void get(Reader& in, std::CONTAINER<T...>& value);
#define MEGATRON_FT_CONTAINERS \
    MEGATRON_FT_CONTAINER(vector) MEGATRON_FT_CONTAINER(list) MEGATRON_FT_CONTAINER(deque) MEGATRON_FT_CONTAINER(set) \
    MEGATRON_FT_CONTAINER(multiset) MEGATRON_FT_CONTAINER(unordered_set) MEGATRON_FT_CONTAINER(map) \
    MEGATRON_FT_CONTAINER(multimap) MEGATRON_FT_CONTAINER(unordered_map)
MEGATRON_FT_CONTAINERS
#undef MEGATRON_FT_CONTAINER

// What an element is while it is read: a map's pair has a constant key.
template<class T> struct Element { typedef T type; };
template<class T, class U> struct Element<std::pair<const T, U>> { typedef std::pair<T, U> type; };

template<class C> void put_all(Writer& out, const C& values) {
    out.head('[', values.size());
    for (typename C::const_iterator at = values.begin(); at != values.end(); ++at)
        put(out, static_cast<const typename C::value_type&>(*at));
}

template<class C> void get_all(Reader& in, C& values) {
    values.clear();
    for (size_t left = in.head('['); left > 0; --left) {
        typename Element<typename C::value_type>::type value;
        get(in, value);
        values.insert(values.end(), value);
    }
}

#define MEGATRON_FT_CONTAINER(CONTAINER) \
    template<class... T> void put(Writer& out, const std::CONTAINER<T...>& value) { put_all(out, value); } \
    template<class... T> void get(Reader& in, std::CONTAINER<T...>& value) { get_all(in, value); }
MEGATRON_FT_CONTAINERS
#undef MEGATRON_FT_CONTAINER
#undef MEGATRON_FT_CONTAINERS

template<class T, class U> void put(Writer& out, const std::pair<T, U>& value) {
    out.head('(', 2);
    put(out, value.first);
    put(out, value.second);
}

template<class T, class U> void get(Reader& in, std::pair<T, U>& value) {
    if (in.head('(') != 2) broken("a tuple of another length than two");
    get(in, value.first);
    get(in, value.second);
}

template<size_t I, class... T> typename std::enable_if<I == sizeof...(T)>::type put_from(Writer&, const std::tuple<T...>&) {}
template<size_t I, class... T> typename std::enable_if<I < sizeof...(T)>::type put_from(Writer& out, const std::tuple<T...>& value) {
    put(out, std::get<I>(value));
    put_from<I + 1>(out, value);
}
template<size_t I, class... T> typename std::enable_if<I == sizeof...(T)>::type get_from(Reader&, std::tuple<T...>&) {}
template<size_t I, class... T> typename std::enable_if<I < sizeof...(T)>::type get_from(Reader& in, std::tuple<T...>& value) {
    get(in, std::get<I>(value));
    get_from<I + 1>(in, value);
}

template<class... T> void put(Writer& out, const std::tuple<T...>& value) {
    out.head('(', sizeof...(T));
    put_from<0>(out, value);
}

template<class... T> void get(Reader& in, std::tuple<T...>& value) {
    if (in.head('(') != sizeof...(T)) broken("a tuple of another length than the declared one");
    get_from<0>(in, value);
}

}  // namespace megatron_ft

#endif
