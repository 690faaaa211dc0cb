// The part of wire.hpp that needs no template.
#include "wire.hpp"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <unistd.h>

namespace megatron_ft {

const size_t MESSAGE_BYTES = 8 << 20;
const unsigned ANY_DEPTH = 64;
const size_t PIECE_BYTES = 1 << 16;

void Writer::raw(const void* data, size_t count) { bytes.append(static_cast<const char*>(data), count); }

void Writer::head(char tag, size_t count) {
    uint32_t narrow = static_cast<uint32_t>(count);
    if (count > MESSAGE_BYTES) too_long();
    raw(&tag, 1);
    raw(&narrow, sizeof narrow);
}

void Reader::raw(void* data, size_t count) {
    if (static_cast<size_t>(end - at) < count) broken("a message that ends within a value");
    std::memcpy(data, at, count);
    at += count;
}

char Reader::tag() {
    char tag;
    raw(&tag, 1);
    return tag;
}

size_t Reader::head(char wanted) {
    char found = tag();
    if (found != wanted) broken("a value of another type than the declared one");
    uint32_t count;
    raw(&count, sizeof count);
    if (count > static_cast<size_t>(end - at)) broken("a value that is longer than its message");
    return count;
}

template<class T> static long double number_of(Reader& in) {
    T value;
    in.raw(&value, sizeof value);
    return value;
}

long double Reader::number() {
    switch (tag()) {
        case 'i': return number_of<long long>(*this);
        case 'u': return number_of<unsigned long long>(*this);
        case 'f': return number_of<float>(*this);
        case 'd': return number_of<double>(*this);
        case 'e': return number_of<long double>(*this);
        default: broken("a value that is no number where one is declared");
    }
}

template<class T> static void put_number(Writer& out, char tag, T value) {
    out.raw(&tag, 1);
    out.raw(&value, sizeof value);
}

void put_signed(Writer& out, long long value) { put_number(out, 'i', value); }
void put_unsigned(Writer& out, unsigned long long value) { put_number(out, 'u', value); }
void put(Writer& out, float value) { put_number(out, 'f', value); }
void put(Writer& out, double value) { put_number(out, 'd', value); }
void put(Writer& out, long double value) { put_number(out, 'e', value); }

void put(Writer& out, const std::string& value) {
    out.head('s', value.size());
    out.raw(value.data(), value.size());
}

void put(Writer& out, const char* value) { put(out, std::string(value)); }

void get(Reader& in, std::string& value) {
    size_t count = in.head('s');
    value.assign(in.at, count);
    in.at += count;
}

void get(Reader& in, const char*& value) {
    static std::deque<std::string> kept;  // as long as the process, like a literal
    kept.emplace_back();
    get(in, kept.back());
    value = kept.back().c_str();
}

// The types that a boost::any may hold on the wire; the code of each is its place.
template<class... T> struct Types {};
typedef Types<bool, char, signed char, unsigned char, short, unsigned short, int, unsigned, long, unsigned long, long long,
              unsigned long long, float, double, long double, std::string, const char*, std::list<boost::any>,
              std::vector<boost::any>, std::vector<int>, std::vector<float>, std::vector<double>, std::vector<std::string>,
              std::map<std::string, boost::any>> Carried;
const char EMPTY = 0;

static void put_held(Writer&, const boost::any&, char, Types<>) { not_carried("a boost::any that holds a value of another type than those of wire.cpp"); }
template<class T, class... U> static void put_held(Writer& out, const boost::any& value, char code, Types<T, U...>) {
    if (const T* held = boost::any_cast<T>(&value)) {
        out.raw(&code, 1);
        put(out, *held);
    } else {
        put_held(out, value, code + 1, Types<U...>());
    }
}

static void get_held(Reader&, boost::any&, char, Types<>) { broken("a boost::any of an unknown type"); }
template<class T, class... U> static void get_held(Reader& in, boost::any& value, char code, Types<T, U...>) {
    if (code > 1) return get_held(in, value, code - 1, Types<U...>());
    T held;
    get(in, held);
    value = held;
}

void put(Writer& out, const boost::any& value) {
    out.raw("a", 1);
    if (value.empty()) out.raw(&EMPTY, 1);
    else put_held(out, value, 1, Carried());
}

void get(Reader& in, boost::any& value) {
    if (in.tag() != 'a') broken("a value that is no boost::any where one is declared");
    if (++in.depth > ANY_DEPTH) broken("values that are nested too deep");
    char code = in.tag();
    if (code == EMPTY) value = boost::any();
    else get_held(in, value, code, Carried());
    --in.depth;
}

static bool read_fully(int descriptor, void* data, size_t count) {
    char* at = static_cast<char*>(data);
    while (count > 0) {
        ssize_t done = read(descriptor, at, count);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        at += done;
        count -= done;
    }
    return true;
}

bool read_message(int descriptor, std::string& message) {
    uint32_t count;
    if (!read_fully(descriptor, &count, sizeof count)) return false;
    if (count > MESSAGE_BYTES) broken("a message that is too long");
    message.clear();
    while (message.size() < count) {  // memory grows with what has come, not with what was announced
        size_t before = message.size();
        size_t piece = count - before < PIECE_BYTES ? count - before : PIECE_BYTES;
        message.resize(before + piece);
        if (!read_fully(descriptor, &message[before], piece)) return false;
    }
    return true;
}

static bool write_fully(int descriptor, const char* data, size_t count) {
    while (count > 0) {
        ssize_t done = write(descriptor, data, count);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return false;
        data += done;
        count -= done;
    }
    return true;
}

bool write_message(int descriptor, const std::string& message) {
    if (message.size() > MESSAGE_BYTES) too_long();
    uint32_t count = static_cast<uint32_t>(message.size());
    return write_fully(descriptor, reinterpret_cast<const char*>(&count), sizeof count)
        && write_fully(descriptor, message.data(), message.size());
}

}  // namespace megatron_ft
