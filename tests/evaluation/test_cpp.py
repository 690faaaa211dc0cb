"""How C++ programs are judged: right and wrong ones, and every type on the wire."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation.languages import cpp as module
from megatron_ft.evaluation.languages.base import Language
from megatron_ft.evaluation.languages.cpp import Cpp
from tests.evaluation.cpp_problems import DOUBLE, RIGHT, problem


@pytest.fixture
def cpp(judges: Callable[[str], Language]) -> Cpp:
    """The judge of C++ programs."""
    return judges("cpp")


# A program for DOUBLE -> status and what its reason says.
PROGRAMS = {
    "is not closed": ("int twice(int x){ return x * 2;", "compile error", "error"),
    "has a main of its own": ("int twice(int x){ return x * 2; }\nint main(){ return 7; }", "passed", ""),
    "has macros for words": ("#define int long long\n#define N 5\n#define T 6\nint twice(int x){ return x * 2; }\n"
                             "signed main(){ return 0; }", "passed", ""),
    "takes another type": ("double twice(long long x){ return x * 2; }", "passed", ""),
    "takes a reference": ("int twice(int& x){ x *= 2; return x; }", "passed", ""),
    "has a default": ("int twice(int x, int times = 2){ return x * times; }", "passed", ""),
    "is overloaded": ("string twice(string x){ return x + x; }\nint twice(int x){ return x * 2; }", "passed", ""),
    "is a template": ("template<class T> T twice(T x){ return x + x; }", "passed", ""),
    "instantiates a vector that is compiled already": ("template class std::vector<int>;\nint twice(int x){ return "
                                                       "vector<int>(x, 2).size() * 2; }", "passed", ""),
    "is a lambda": ("auto twice = [](int x){ return x * 2; };", "passed", ""),
    "answers more than an int": ("long long twice(int x){ return x * 2 + (1LL << 32); }", "failed",
                                 "answer 4294967300 is no value of the declared type, at call 1"),
    "answers a fraction": ("double twice(int x){ return x * 2 + 0.5; }", "failed", "answer 4.5 is no value"),
    "throws": ("int twice(int x){ throw out_of_range(\"far\"); }", "failed", "std::out_of_range: far, at call 1"),
    "throws what is no exception": ("int twice(int x){ throw 5; }", "failed", "no std::exception, at call 1"),
    "leaves before its tests": ("struct Leaves { Leaves(){ exit(0); } } leaves;\nint twice(int x){ return x * 2; }", "failed",
                                "ended before its tests did .exit status 0"),
    "crashes": ("int twice(int x){ return *(volatile int*)nullptr; }", "failed", "killed by SIGSEGV"),
    "aborts": ("int twice(int x){ abort(); }", "failed", "killed by SIG(ABRT|SEGV)"),
    "overflows the stack": ("int twice(int x){ volatile char room[4096]; room[0] = 1; return twice(x + 1) + room[0]; }",
                            "failed", "killed by SIGSEGV"),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_status_says_what_happened(cpp: Cpp, kind: str) -> None:
    program, status, reason = PROGRAMS[kind]
    verdict = cpp.judge(DOUBLE, "", program)
    assert verdict.status == status, verdict
    assert re.search(reason, verdict.reason), verdict


# A type as declared -> what a test passes and gets back unchanged.
VALUES = {
    "bool": ["true", "false"],
    "char": ["'a'", "'\\0'", "(char)-1"],
    "short": ["(short)-32768"],
    "int": ["0", "-2147483647 - 1", "2147483647"],
    "unsigned": ["4294967295u"],
    "long long": ["-9223372036854775807LL - 1", "9223372036854775807LL"],
    "unsigned long long": ["18446744073709551615ull"],
    "float": ["0.1f", "-0.0f", "1e38f", "1.0f / 0.0f"],
    "double": ["0.1", "-1e308", "5e-324", "1.0 / 3"],
    "long double": ["0.1L"],
    "string": ['string("")', 'string("a\\0b", 3)', 'string("\\xff\\n\\"")', "string(100000, 'x')"],
    "vector<int>": ["vector<int>()", "vector<int>({1, -2})", "vector<int>(70000, 3)"],
    "vector<bool>": ["vector<bool>({true, false, true})"],
    "vector<vector<string>>": ['vector<vector<string>>({{}, {"a", ""}})'],
    "list<double>": ["list<double>({0.5})"],
    "deque<char>": ["deque<char>({'a'})"],
    "set<int>": ["set<int>({3, 1})"],
    "multiset<int>": ["multiset<int>({1, 1})"],
    "unordered_set<string>": ['unordered_set<string>({"a"})'],
    "map<char,int>": ["map<char,int>()", "map<char,int>({{'a', 1}})"],
    "unordered_map<string,vector<int>>": ['unordered_map<string,vector<int>>({{"a", {1}}})'],
    "pair<int,string>": ['make_pair(1, string("a"))'],
    "tuple<int,double,string>": ['make_tuple(1, 0.5, string("a"))', 'make_tuple(-1, -0.5, string(""))'],
    "const string&": ['string("a")'],
}


@pytest.mark.parametrize("kind", VALUES)
def test_every_type_goes_over_the_wire_and_back(cpp: Cpp, kind: str) -> None:
    plain = kind.removeprefix("const ").rstrip("&")
    bits = ("    {0} one = {1}; {0} two = same(one);\n    assert (one == two);\n    assert (memcmp(&one, &two, SIZE) == 0);\n"
            if kind in ("float", "double") else "    {0} one = {1}; assert (same(one) == one);\n").replace("SIZE", "sizeof one")
    statements = [f"{{\n{bits.format(plain, value)}    }}" for value in VALUES[kind]]
    verdict = cpp.judge(problem(f"{plain} same({kind} x)", *statements), "", f"{plain} same({kind} x){{ return x; }}")
    assert verdict.passed, verdict


def test_a_boost_any_keeps_its_type(cpp: Cpp) -> None:
    values = {"int": "1", "double": "2.5", "float": "2.5f", "char": "'a'", "bool": "true", "string": 'string("a")',
              "long": "1L", "vector<int>": "vector<int>({1})"}
    statements = [f"assert (boost::any_cast<{kind}>(same({{1, {value}}}).back()) == {value});"
                  for kind, value in values.items()]
    statements += ["assert (same({boost::any()}).front().empty());",
                   'assert (boost::any_cast<const char*>(same({"lit"}).front()) == string("lit"));',
                   "assert (boost::any_cast<list_any>(same({list_any({1, 2})}).front()).size() == 2);"]
    own = problem("list_any same(list_any x)", *statements, helpers="#include<list>\ntypedef std::list<boost::any> list_any;\n")
    text = "typedef std::list<boost::any> list_any;\nlist_any same(list_any x){ return x; }"
    assert cpp.judge(own, "", text).passed
    other = cpp.judge(own, "", "typedef std::list<boost::any> list_any;\nlist_any same(list_any x){ return {1, 1.5f}; }")
    assert other.status == "failed"
    assert "bad_any_cast" in other.reason


def test_what_a_call_changes_comes_back_where_the_caller_would_see_it(cpp: Cpp) -> None:
    own = problem("void sort_all(vector<int>& v, const vector<int>& w, vector<int> u)",
                  "vector<int> v = {3, 1, 2}, w = {2, 1}, u = {5, 4};", "sort_all(v, w, u);",
                  "assert (v == vector<int>({1, 2, 3}));", "assert (w[0] == 2 && u[0] == 5);")
    right = "{ sort(v.begin(), v.end()); sort(u.begin(), u.end()); }"
    assert cpp.judge(own, "", f"void sort_all(vector<int>& v, const vector<int>& w, vector<int> u){right}").passed
    copied = cpp.judge(own, "", f"void sort_all(vector<int> v, vector<int> w, vector<int> u){right}")
    assert "assert (v == vector<int>({1, 2, 3}))" in copied.reason


def test_an_exception_of_the_program_can_be_caught_by_its_class(cpp: Cpp) -> None:
    own = problem("int at(int x)", "try { at(1); assert (false); } catch (const invalid_argument& e) {",
                  "    assert (string(e.what()) == \"no\"); }")
    assert cpp.judge(own, "", 'int at(int x){ throw invalid_argument("no"); }').passed
    assert not cpp.judge(own, "", 'int at(int x){ throw out_of_range("no"); }').passed


def test_the_program_is_called_where_the_c_library_has_the_name_too(cpp: Cpp) -> None:
    """CPP/23: in one process <cstring>'s strlen fits the literals better, and any program passes."""
    own = problem("int strlen(string str)", 'assert (strlen("abc") == 3);')
    assert cpp.judge(own, "", "int strlen(string str){ return str.length(); }").passed
    assert cpp.judge(own, "", "int strlen(string str){ return 7; }").status == "failed"


def test_tests_that_index_into_a_wrong_answer_fail_it(cpp: Cpp) -> None:
    own = problem("vector<int> f(int n)", "vector<int>* none = nullptr;", "assert (f(1).size() == 1 || none->size());")
    verdict = cpp.judge(own, "", "vector<int> f(int n){ return {}; }")
    assert (verdict.status, verdict.reason.split(":")[0]) == ("failed", "the tests crashed with signal 11 at call 1")


def test_tests_whose_globals_call_the_program_can_be_run(cpp: Cpp) -> None:
    own = problem("int twice(int x)", "assert (four == 4);")
    own = replace(own, test=own.test.replace("int main", "int four = twice(2);\nint main"))
    assert cpp.judge(own, "", RIGHT).passed


def test_tests_that_leave_with_another_status_fail(cpp: Cpp) -> None:
    verdict = cpp.judge(problem("int twice(int x)", "return twice(1);"), "", RIGHT)
    assert (verdict.status, verdict.reason) == ("failed", "the tests left with status 2")


def test_a_signature_that_is_none_stops_the_run(cpp: Cpp) -> None:
    with pytest.raises(EvaluationError, match="Own/0: its signature 'twice' is no C\\+\\+ function's"):
        cpp.judge(replace(DOUBLE, signature="twice"), "", "")


@pytest.mark.parametrize(("said", "package"), [
    ("all.hpp:15:10: fatal error: boost/any.hpp: No such file or directory", "libboost-dev"),
    ("fatal error: openssl/md5.h: No such file or directory", "libssl-dev"),
    ("/usr/bin/ld: cannot find -lcrypto: No such file or directory", "libssl-dev"),
])
def test_an_absent_header_is_named_with_its_package(said: str, package: str) -> None:
    assert module._missing(said) == f"install the Debian package {package}"
