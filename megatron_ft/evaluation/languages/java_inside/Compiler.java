package megatron_ft;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.OutputStream;
import java.io.Writer;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import javax.tools.Diagnostic;
import javax.tools.DiagnosticCollector;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaCompiler;
import javax.tools.JavaFileManager;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;
import javax.tools.StandardJavaFileManager;
import javax.tools.StandardLocation;
import javax.tools.ToolProvider;

/**
 * Compiles one source after another, in memory; javac takes a second to start and a twentieth for a program.
 *
 * <p>No code of a source runs here: annotation processors are off. A message is a source; its answer is 'c' and an artifact
 * (see Classes), or 'e' and what was wrong with it.
 */
final class Compiler {
    private static final List<String> OPTIONS = List.of("-proc:none", "-nowarn", "-Xlint:none", "-g:source,lines", "-implicit:none",
        "-XDstringConcat=inline");
    private static final long STACK_BYTES = 64L << 20;

    private final JavaCompiler javac = ToolProvider.getSystemJavaCompiler();
    private final DiagnosticCollector<JavaFileObject> ignored = new DiagnosticCollector<>();
    private final StandardJavaFileManager system = javac.getStandardFileManager(ignored, Locale.ENGLISH, StandardCharsets.UTF_8);
    private final String half;

    private Compiler(String half) throws IOException {
        this.half = half;
        // The tests' half knows Ask; a program's knows the standard library and itself.
        List<File> path = half.equals("tests") ? List.of(new File(System.getProperty("java.class.path"))) : List.of();
        system.setLocation(StandardLocation.CLASS_PATH, path);
    }

    /** Arguments: "program" or "tests", and two descriptors. */
    public static void main(String[] args) throws Exception {
        Compiler compiler = new Compiler(args[0]);
        Pipes pipes = new Pipes(args[1], args[2]);
        Thread thread = new Thread(null, () -> compiler.serve(pipes), "compiler", STACK_BYTES);
        thread.start();
        thread.join();
    }

    private void serve(Pipes pipes) {
        try {
            for (byte[] source = pipes.receive(); source != null; source = pipes.receive()) {
                pipes.send(compiled(source));
            }
        } catch (IOException gone) {
            // Nobody waits for an answer any more.
        }
    }

    private byte[] compiled(byte[] source) throws IOException {
        DiagnosticCollector<JavaFileObject> said = new DiagnosticCollector<>();
        Memory memory = new Memory(system);
        String name = half.equals("tests") ? "Main.java" : "Solution.java";
        boolean done;
        String problem = "the compiler gave up";
        try {
            List<Source> sources = List.of(new Source(name, new String(source, StandardCharsets.UTF_8)));
            done = javac.getTask(Writer.nullWriter(), memory, said, OPTIONS, null, sources).call();
        } catch (RuntimeException | StackOverflowError | OutOfMemoryError failure) {
            done = false;
            problem = "error: the compiler ended with " + failure;
        }
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        if (!done) {
            bytes.write('e');
            bytes.write(told(said, problem).getBytes(StandardCharsets.UTF_8));
            return bytes.toByteArray();
        }
        Map<String, byte[]> files = new LinkedHashMap<>();
        memory.made.forEach((type, file) -> files.put(type, file.toByteArray()));
        if (half.equals("tests")) {
            files.put(Classes.SOURCE, source);
        }
        bytes.write('c');
        Classes.write(files, new DataOutputStream(bytes));
        return bytes.toByteArray();
    }

    private static String told(DiagnosticCollector<JavaFileObject> said, String otherwise) {
        StringBuilder text = new StringBuilder();
        for (Diagnostic<? extends JavaFileObject> each : said.getDiagnostics()) {
            if (each.getKind() == Diagnostic.Kind.ERROR && text.length() < 4000) {
                String place = each.getSource() == null ? "" : each.getSource().getName() + ":" + each.getLineNumber() + ": ";
                String message = each.getMessage(Locale.ENGLISH).replaceAll("\\s*\\n\\s*", "; ");
                text.append(place.replaceFirst("^/", "")).append("error: ").append(message).append('\n');
            }
        }
        return text.length() == 0 ? otherwise : text.toString();
    }

    /** A source that lies nowhere; a public class of any name may stand in it. */
    private static final class Source extends SimpleJavaFileObject {
        private final String text;

        Source(String name, String text) {
            super(URI.create("memory:/" + name), Kind.SOURCE);
            this.text = text;
        }

        @Override
        public CharSequence getCharContent(boolean ignoreEncodingErrors) {
            return text;
        }

        @Override
        public boolean isNameCompatible(String simpleName, Kind kind) {
            return true;
        }
    }

    /** Keeps what is made. */
    private static final class Memory extends ForwardingJavaFileManager<JavaFileManager> {
        private final Map<String, ByteArrayOutputStream> made = new LinkedHashMap<>();

        Memory(JavaFileManager system) {
            super(system);
        }

        @Override
        public JavaFileObject getJavaFileForOutput(Location location, String name, JavaFileObject.Kind kind, FileObject beside) {
            return new SimpleJavaFileObject(URI.create("memory:/" + name.replace('.', '/') + ".class"), kind) {
                @Override
                public OutputStream openOutputStream() {
                    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
                    made.put(name, bytes);
                    return bytes;
                }
            };
        }
    }
}
