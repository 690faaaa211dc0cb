package megatron_ft;

import java.io.FileOutputStream;
import java.io.IOException;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The tests' side: runs their main, calls the program's methods over the pipes, tells the evaluator what came of it.
 *
 * <p>What it writes to its third descriptor is described in megatron_ft/evaluation/case.py.
 */
public final class Ask {
    private static final int CALLS_TOLD = 12;

    private static Pipes pipes;
    private static FileOutputStream report;
    private static String[] lines = {};
    private static final List<String> CALLS = new ArrayList<>();
    /** The classes of what stands here for values of the program that are not carried, and for its exceptions. */
    private static final Set<String> STRANGE = new HashSet<>(Set.of(Wire.Opaque.class.getName()));

    private Ask() {}

    /** Arguments: the descriptors of the artifact and of three pipes; the token comes in on stdin. */
    public static void main(String[] args) throws IOException, ReflectiveOperationException {
        report = new FileOutputStream(Pipes.descriptor(args[3]));
        pipes = new Pipes(args[1], args[2]);
        byte[] token = System.in.readAllBytes();
        report.write("ready\n".getBytes());
        if (pipes.receive() == null) {
            end("not started", "");
        }
        Map<String, byte[]> files = Classes.read(args[0]);
        lines = new String(files.get(Classes.SOURCE), StandardCharsets.UTF_8).split("\n");
        try {
            Method main = new Classes(files).named("Main").getDeclaredMethod("main", String[].class);
            main.setAccessible(true);
            main.invoke(null, (Object) new String[0]);
        } catch (InvocationTargetException problem) {
            end("failed", reason(problem.getCause()));
        }
        report.write(token);
        System.exit(0);
    }

    /** Makes an object of the program's class of that name and gives its number. */
    public static int make(Class<?> declared) {
        return (Integer) asked(declared, "", -1, List.of(), new Object[0]);
    }

    /** Calls a method of the program; the value is of the type that the tests' own declaration of it has. */
    @SuppressWarnings("unchecked")
    public static <T> T call(Class<?> declared, int self, String name, Object... arguments) {
        for (Object argument : arguments) {
            mustBeCarried(name, argument);
        }
        for (Method method : declared.getDeclaredMethods()) {
            if (method.getName().equals(name) && method.getParameterCount() == arguments.length) {
                return (T) widened(asked(declared, name, self, Answer.namesOf(method), arguments), method.getReturnType());
            }
        }
        throw new IllegalStateException("no method " + name);
    }

    /**
     * Stops the run at a value of the tests' own that cannot be sent. One that holds what the program returned or threw only
     * fails them: a program decides what it returns.
     */
    private static void mustBeCarried(String name, Object argument) {
        List<String> uncarried = Wire.uncarried(argument);
        boolean deep = uncarried == null;
        if (!deep && uncarried.isEmpty()) {
            return;
        }
        if (deep ? !CALLS.isEmpty() : !Collections.disjoint(uncarried, STRANGE)) {
            throw new IllegalArgumentException(name + " gets a value of the program that is not carried to its tests");
        }
        end("broken", "its tests pass a value " + (deep ? "that is nested too deep" : "of class " + uncarried.get(0)));
    }

    private static Object asked(Class<?> declared, String name, int self, List<String> parameters, Object[] arguments) {
        String call = name.isEmpty() ? "new " + declared.getSimpleName() + "()" : name + shown(arguments);
        try {
            pipes.send(joined(declared.getSimpleName(), name, self, parameters, Arrays.asList(arguments)));
        } catch (IOException gone) {
            end("ended", "");
        }
        try {
            byte[] message = pipes.receive();
            if (message == null) {
                end("ended", "");
            }
            return accept(call, new Reader(message), arguments);
        } catch (Wire.Breach problem) {
            end("refused", "the program sent " + problem.getMessage() + " for " + call);
        }
        return null;
    }

    private static byte[] joined(Object... values) throws IOException {
        var bytes = new java.io.ByteArrayOutputStream();
        for (Object value : values) {
            bytes.write(Wire.encode(value));
        }
        return bytes.toByteArray();
    }

    private static Object accept(String call, Reader message, Object[] arguments) {
        byte tag = message.tag();
        if (tag == 'x') {
            throw Thrown.sneaked(thrown(call, message));
        }
        if (tag != 'v') {
            throw new Wire.Breach("an unknown answer");
        }
        Object value = message.read();
        for (Object argument : arguments) {
            if (Boolean.TRUE.equals(message.read())) {
                Changed.bringBack(argument, message.read());
            }
        }
        if (!call.startsWith("new ")) {
            CALLS.add(call + " gave " + shown(value));
        }
        return value;
    }

    private static Throwable thrown(String call, Reader message) {
        Object stage = message.read();
        Object names = message.read();
        Object text = message.read();
        if (!(names instanceof List<?> list) || list.isEmpty() || !(text instanceof String said)) {
            throw new Wire.Breach("an exception without a name");
        }
        if ("no answer".equals(stage)) {
            end("failed", call + ": " + said + place(new Throwable()));
        }
        CALLS.add(call + " threw " + list.get(0));
        Throwable problem = Thrown.nearest(list, said);
        STRANGE.add(problem.getClass().getName());
        return problem;
    }

    /** A value as the primitive type that is wanted, where java would widen it. */
    private static Object widened(Object value, Class<?> wanted) {
        if (value instanceof Character letter && wanted != char.class && wanted.isPrimitive()) {
            value = (int) letter;
        }
        if (!(value instanceof Number number) || !wanted.isPrimitive() || value instanceof Double) {
            return value;
        }
        if (wanted == double.class) {
            return number.doubleValue();
        }
        if (wanted == float.class) {
            return number.floatValue();
        }
        boolean whole = !(value instanceof Float);
        if (wanted == long.class && whole) {
            return number.longValue();
        }
        return wanted == int.class && whole && !(value instanceof Long) ? (Object) number.intValue() : value;
    }

    private static String reason(Throwable problem) {
        String text = problem.getMessage() == null ? "" : ": " + problem.getMessage();
        List<String> told = CALLS.subList(Math.max(0, CALLS.size() - CALLS_TOLD), CALLS.size());
        String calls = told.isEmpty() ? "" : "; its last calls: " + String.join("; ", told);
        return problem.getClass().getSimpleName() + text + place(problem) + calls;
    }

    /** Says at which line of the tests it happened: they begin with the first line of their source. */
    private static String place(Throwable problem) {
        for (StackTraceElement frame : problem.getStackTrace()) {
            boolean tests = frame.getClassName().equals("Main") || frame.getClassName().startsWith("Main$");
            if (tests && frame.getLineNumber() >= 1 && frame.getLineNumber() <= lines.length) {
                String line = lines[frame.getLineNumber() - 1].strip();
                return ", at test line " + frame.getLineNumber() + ": " + line;
            }
        }
        return "";
    }

    private static String shown(Object value) {
        String text = value instanceof Object[] items ? Arrays.deepToString(items) : Arrays.deepToString(new Object[] {value});
        text = text.substring(1, text.length() - 1);
        if (text.length() > 100) {
            text = text.substring(0, 60) + "..." + text.substring(text.length() - 30);
        }
        return value instanceof Object[] ? "(" + text + ")" : value instanceof String ? '"' + text + '"' : text;
    }

    private static void end(String kind, String reason) {
        try {
            report.write((kind + "\n" + reason).getBytes(StandardCharsets.UTF_8));
        } catch (IOException gone) {
            // Nobody waits for it any more.
        }
        Runtime.getRuntime().halt(1);
    }
}
