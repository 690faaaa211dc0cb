"""Java: compiled by a javac that stays, run by two small JVMs.

The program's classes and those of the tests never meet: each half is one artifact, which the class loader of our own half
of the wire (`java_inside`) reads. The tests' Solution is the problem's own text, in which the method that a model has to
write asks the program's Solution in the other box.
"""

from __future__ import annotations

import re
import shlex
import shutil
import struct
import subprocess
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from megatron_ft.errors import EvaluationError
from megatron_ft.evaluation import braces
from megatron_ft.evaluation.benchmark import Problem
from megatron_ft.evaluation.build import Built, build
from megatron_ft.evaluation.case import Side
from megatron_ft.evaluation.languages.braced import Braced
from megatron_ft.evaluation.languages.compiled import ARTIFACT, Compiled
from megatron_ft.evaluation.languages.java_compiler import Compilers
from megatron_ft.evaluation.sandbox import Box, Limits, Sandbox
from megatron_ft.evaluation.toolchain_cache import cached_folder

INSIDE = "/box/java"
SOURCES = Path(__file__).parent / "java_inside"
OLDEST = 17
# The first tier of its compiler and its smallest collector: a program's tests run for a tenth of a second.
OPTIONS = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:ActiveProcessorCount=2", "-Xshare:auto")
MANIFEST = "Main-Class: megatron_ft.Start\nAdd-Opens: java.base/java.io\n"
CONCATENATED = "-XDstringConcat=inline"  # or the first `+` of two texts links itself when it runs
STACK, COMPILER_HEAP = "-Xss2m", "-Xmx768m"
IMPORT = re.compile(r"^[ \t]*import\s[^;]+;", re.MULTILINE)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
HEAD = re.compile(
    r"(?:[;{}]|\*/)\s*(?P<modifiers>(?:(?:@\w+|public|protected|private|static|final|synchronized|strictfp)\s+)*)"
    r"(?:<[^{};()]*>\s*)?(?P<returns>[\w.]+(?:\s*<[^{};()]*>)?[\s\[\]]+)"
    r"(?P<name>\w+)\s*\((?P<parameters>[^(){};]*)\)[^(){};]*\{\s*$")
SELF_CHECK = Problem(
    "self-check", "class Solution {\n    public int f(int x) {\n", "class Solution {\n    public int f(int x) {\n", "", "",
    "", "", "f", "", "", "",
    "public class Main {\n    public static void main(String[] args) {\n"
    "        if (new Solution().f(2) != 4) throw new AssertionError();\n    }\n}\n", "")
REHEARSAL = Problem(
    "rehearsal", *["import java.util.*;\nclass Solution {\n    public List<Object> f(List<Object> x, String y) {\n"] * 2,
    "", "", "", "", "f", "", "", "",
    "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
    "        List<Boolean> correct = Arrays.asList(\n"
    "            s.f(new ArrayList<>(Arrays.asList(3, 1.5, \"x\", true)), \"a\").equals(Arrays.asList(3, \"a1\")),\n"
    "            Objects.equals(1, 1));\n        if (correct.contains(false)) throw new AssertionError();\n    }\n}\n", "")
REHEARSAL_PROGRAM = REHEARSAL.prompt + """
        StringBuilder text = new StringBuilder();
        for (char letter : y.toCharArray()) text.append(Character.toLowerCase(letter)).append(1);
        Map<Integer, String> counts = new TreeMap<>(new HashMap<>(Map.of(3, text + ""))), same = new LinkedHashMap<>(counts);
        List<Object> found = new ArrayList<>(new HashSet<>(same.keySet()));
        found.addAll(counts.values().stream().map(String::trim).filter(each -> each.length() > 1).toList());
        Collections.sort(new ArrayList<>(List.of(2, 1)), (a, b) -> a - b);
        Object[] parts = String.format("%d %s", 1, "b").split(" ");
        return Optional.of(parts).isPresent() ? found : List.of();
    }
}
"""


class Method(NamedTuple):
    """What the tests' half needs to know of the method that a problem begins."""

    name: str
    parameters: tuple[str, ...]
    """Their names."""
    static: bool
    void: bool


class Java(Braced, Compiled):
    """Java, by the javac on PATH and the java beside it."""

    name = "java"
    title = "Java"
    grammar = braces.JAVA
    tools: ClassVar = {"javac": "openjdk-17-jdk-headless"}
    default_limits: ClassVar = Limits(address_space=False, processes=40)
    # The cpu time is that of all programs together, so a single one is held to the wall time.
    build_limits = Limits(cpu_s=10**6, wall_s=60, memory_bytes=4 * 2**30, address_space=False, processes=64)

    def __init__(self, sandbox: Sandbox, limits: Limits | None = None) -> None:
        # A JVM reserves far more than it uses; its heap has a limit of its own.
        super().__init__(sandbox, replace(limits or self.default_limits, address_space=False))
        self._compilers: dict[str, Compilers] = {}

    def check(self) -> dict[str, str]:
        """Judge a right and a wrong program; the toolchain's version."""
        right = "class Solution {\n    public int f(int x) {\n        return x * 2;\n    }\n}\n"
        self.require_verdicts(SELF_CHECK, right, right.replace("2", "3"))
        return {"javac": self._version}

    def program_source(self, problem: Problem, program: str) -> str:
        """The program; what it does not import of the problem's imports is added to its first line."""
        if re.match(r"\s*package\s", program):
            return program
        given = {_spaceless(line) for line in IMPORT.findall(program)}
        return "".join(f"{line.strip()} " for line in IMPORT.findall(problem.prompt) if _spaceless(line) not in given) + program

    def tests_source(self, problem: Problem) -> str:
        """The tests, on the same lines as in the problem, and after them the problem's own class, whose method asks."""
        imports = "".join(f"{line.strip()} " for line in IMPORT.findall(problem.prompt))
        method = method_begun(problem)
        owner = re.findall(r"\bclass\s+(\w+)", COMMENT.sub("", problem.prompt))[-1]
        call = (f"megatron_ft.Ask.call({', '.join([f'{owner}.class', '-1' if method.static else 'megatronFtSelf'])}, "
                f'"{method.name}", new Object[] {{{", ".join(method.parameters)}}});')
        return (f"{imports}{problem.test}\n{IMPORT.sub('', problem.prompt)}\n{'' if method.void else 'return '}{call}\n}}\n"
                f"private final int megatronFtSelf = megatron_ft.Ask.make({owner}.class);\n}}\n")

    def build_box(self) -> Box:
        """The compiler, and our half of the wire for the tests to call."""
        return self._box({str(self._toolchain): INSIDE}, self.build_limits)

    def build_script(self, half: str) -> str:
        """The compiler's own command: it takes one source after another, over two descriptors."""
        return f"exec {' '.join(self._java('Compiler', COMPILER_HEAP))} {half} \"$@\""

    def run_box(self) -> Box:
        """The JDK, and our half of the wire."""
        return self._box({str(self._toolchain): INSIDE}, self.limits)

    def side(self, half: str, artifact: Path) -> Side:
        """Our half of the wire, which loads the artifact."""
        return Side(self.run_box(), self._java({"program": "Answer", "tests": "Ask"}[half], self._heap), data=artifact)

    @property
    def _heap(self) -> str:
        return f"-Xmx{self.limits.memory_bytes // 2**21}m"  # the other half is for threads, code and classes

    def public_build(self) -> tuple[Box, str]:
        """The public harness's command; the classes come as an archive."""
        javac = f"{self._home}/bin/javac -J-Xmx1g -J-XX:+UseSerialGC"
        script = f"mkdir made && cat >Main.java && {javac} -d made Main.java >&2 && cd made && tar -c *"
        return self._box({}, replace(self.build_limits, cpu_s=120 * self.slowness)), script

    def public_argv(self) -> Sequence[str]:
        """The class with the tests' main."""
        java = shlex.join([f"{self._home}/bin/java", *OPTIONS, self._heap, STACK, "-cp", ".", "Main"])
        return ["/bin/sh", "-c", f"tar -x -m -f {ARTIFACT} && exec {java}"]

    def _build(self, half: str, source: str) -> Built:
        """As `build` would, by a compiler that stays."""
        if half not in self._compilers:
            compilers = Compilers(self.sandbox, self.build_box(), self.build_script(half))
            if self._compilers.setdefault(half, compilers) is compilers:
                weakref.finalize(self, compilers.close)
        began = time.monotonic()
        try:
            answer = self._compilers[half].compile(source.encode("utf-8", "replace"))
        except TimeoutError:
            reason = f"not compiled after {self.build_limits.wall_s:g} s"
            return Built(b"", "timeout", reason, "", round(time.monotonic() - began, 3))
        seconds = round(time.monotonic() - began, 3)
        if answer is None:
            return Built(b"", "compile error", "the compiler ended at this program", "", seconds)
        if answer[:1] == b"c":
            return Built(answer[1:], "", "", "", seconds)
        said = answer[1:].decode("utf-8", "replace")
        return Built(b"", "compile error", said.partition("\n")[0], said, seconds)

    def _java(self, main: str, heap: str) -> list[str]:
        inside = str(self._toolchain) if self.sandbox.tool == "none" else INSIDE
        return [f"{self._home}/bin/java", *OPTIONS, heap, STACK, f"-XX:SharedArchiveFile={inside}/{main}.jsa",
                "-jar", f"{inside}/inside.jar", main]

    def _box(self, shown: dict[str, str], limits: Limits) -> Box:
        # The launcher finds its libraries beside itself by /proc/self/exe, which a box lacks.
        return Box({**shown, **{folder: folder for folder in self._folders}}, {"LD_LIBRARY_PATH": f"{self._home}/lib"}, limits)

    @cached_property
    def _home(self) -> Path:
        """The JDK's folder; EvaluationError where there is none."""
        javac = shutil.which("javac")
        if javac is None:
            raise EvaluationError("java programs need the command 'javac', which is not on PATH: "
                                  f"install {self.tools['javac']}")
        return Path(javac).resolve().parents[1]

    @cached_property
    def _folders(self) -> list[str]:
        """The JDK, and the folders outside of it that its settings are links to (Debian has them in /etc)."""
        targets = (path.resolve() for path in self._home.rglob("*") if path.is_symlink())
        outside = {str(Path(*target.parts[:3])) for target in targets if target.parts[:2] == ("/", "etc") and target.exists()}
        return sorted({str(self._home), *outside} - {"/etc/ssl"})

    @cached_property
    def _version(self) -> str:
        done = _run([f"{self._home}/bin/javac", "-version"])
        version = done.split()[-1]
        if int(version.split(".")[0]) < OLDEST:
            raise EvaluationError(f"java programs need a JDK {OLDEST} or newer; {self._home} is {version}: "
                                  f"install {self.tools['javac']}")
        return version

    @cached_property
    def _toolchain(self) -> Path:
        """Our half of the wire, compiled, and archives of what the JVMs load at their start."""
        sources = [path.read_text() for path in sorted(SOURCES.glob("*.java"))]
        # Archives can only be made where boxes show the jar under its own name.
        key = [self._version, str(self._home), str(self.sandbox.tool == "none"), Path(__file__).read_text(), *sources]
        return cached_folder("java", key, self._make_toolchain)

    def _make_toolchain(self, folder: Path) -> None:
        classes = folder / "classes"
        manifest = folder / "manifest"
        manifest.write_text(MANIFEST)
        _run([f"{self._home}/bin/javac", CONCATENATED, "-d", str(classes), *map(str, sorted(SOURCES.glob("*.java")))])
        _run([f"{self._home}/bin/jar", "--create", "--file", str(folder / "inside.jar"), "--manifest", str(manifest),
              "-C", str(classes), "."])
        shutil.rmtree(classes)
        manifest.unlink()
        (folder / "inside.jar").chmod(0o444)
        folder.chmod(0o755)
        for main in ("Compiler", "Answer", "Ask") if self.sandbox.tool != "none" else ():
            self._archive(folder, main)

    def _archive(self, folder: Path, main: str) -> None:
        """What a JVM has loaded after a first case, kept for the next ones to start with.

        Without it they only start more slowly, as they do where the jar lies under another name than here.
        """
        def java(name: str) -> str:
            dump = f"-XX:ArchiveClassesAtExit=$made/{name}.jsa" if name == main else ""
            return " ".join([f"{self._home}/bin/java", *OPTIONS, COMPILER_HEAP, STACK, dump,
                             "-jar", f"{INSIDE}/inside.jar", name])

        program, tests = (struct.pack(">i", len(source)) + source.encode() for source in
                          (self.program_source(REHEARSAL, REHEARSAL_PROGRAM), self.tests_source(REHEARSAL)))
        script = (f"made=$(mktemp -d) && cd $made && mkfifo calls answers && head -c {len(program)} >program && cat >tests && "
                  f"{java('Compiler')} program 0 3 <program 3>made.program && "
                  f"{java('Compiler')} tests 0 3 <tests 3>made.tests && "
                  "tail -c +6 made.program >program && tail -c +6 made.tests >tests && "
                  f"{{ {java('Answer')} 6 3 4 3<calls 4>answers 6<program >&2 & }} && "
                  f"echo token | {java('Ask')} 6 3 4 5 4>calls 3<answers 5>report 6<tests >&2; wait; cat {main}.jsa")
        box = self._box({str(folder): INSIDE}, self.build_limits)
        made = build(self.sandbox, box, script, program + tests)
        if made.data:
            (folder / f"{main}.jsa").write_bytes(made.data)


def _run(command: list[str]) -> str:
    """What a tool of the JDK says."""
    quiet = [command[0], "-J-XX:-UsePerfData", *command[1:]]  # or it leaves a folder for its figures in /tmp
    done = subprocess.run(quiet, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EvaluationError(f"{command[0]} failed with {done.returncode}: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout + done.stderr


def _spaceless(text: str) -> str:
    return "".join(text.split())


def method_begun(problem: Problem) -> Method:
    """The method that a problem's prompt leaves open; some have another name than the problem's entry_point.

    >>> method_begun(SELF_CHECK)
    Method(name='f', parameters=('x',), static=False, void=False)
    """
    head = HEAD.search(problem.prompt)
    if head is None:
        raise EvaluationError(f"{problem.task_id}: its prompt does not end with the head of a method; "
                              f"its last line is {problem.prompt.rstrip().splitlines()[-1]!r}")
    without_types = re.sub(r"<[^<>]*>", "", re.sub(r"<[^<>]*>", "", re.sub(r"<[^<>]*>", "", head["parameters"])))
    parameters = tuple(part.split()[-1] for part in without_types.split(",") if part.strip())
    return Method(head["name"], parameters, "static" in head["modifiers"].split(), head["returns"].strip() == "void")
