package megatron_ft;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * The program's side: makes its Solution and calls the methods that the tests in the other box call.
 *
 * <p>This process holds nothing worth reading: no test, no expected value, no token. The program may take over every line
 * below; all that it gains is to answer calls, which is what it is there for.
 */
final class Answer {
    private final Classes classes;
    private final List<Object> objects = new ArrayList<>();

    private Answer(Classes classes) {
        this.classes = classes;
    }

    /** Arguments: the descriptors of the artifact and of two pipes. That the box stands is said before any code of the program runs. */
    public static void main(String[] args) throws IOException {
        Pipes pipes = new Pipes(args[args.length - 2], args[args.length - 1]);
        pipes.send(new byte[0]);
        Answer answer = new Answer(new Classes(Classes.read(args[0])));
        for (byte[] message = pipes.receive(); message != null; message = pipes.receive()) {
            pipes.send(answer.reply(message));
        }
        System.exit(0); // threads of the program may still run
    }

    private byte[] reply(byte[] message) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try {
            reply(new Reader(message), new DataOutputStream(bytes));
        } catch (InvocationTargetException problem) {
            return thrown("exception", problem.getCause());
        } catch (ExceptionInInitializerError problem) {
            return thrown("exception", problem.getCause() == null ? problem : problem.getCause());
        } catch (Exception | Error problem) {
            return thrown("no answer", problem);
        }
        return bytes.toByteArray();
    }

    /** Calls what a message names; then come the value, and for each argument whether the call changed it and to what. */
    private void reply(Reader message, DataOutputStream out) throws IOException, ReflectiveOperationException {
        String type = (String) message.read();
        String name = (String) message.read();
        int self = (Integer) message.read();
        List<?> parameters = (List<?>) message.read();
        Object[] arguments = ((List<?>) message.read()).toArray();
        byte[][] before = new byte[arguments.length][];
        for (int index = 0; index < arguments.length; index++) {
            before[index] = Wire.encode(arguments[index]);
        }
        Class<?> solution = classes.named(type);
        if (solution == null) {
            throw new NoSuchMethodException("the program has no class " + type);
        }
        Object value;
        if (name.isEmpty()) {
            Constructor<?> constructor = solution.getDeclaredConstructor();
            constructor.setAccessible(true);
            objects.add(constructor.newInstance());
            value = objects.size() - 1;
        } else {
            value = method(solution, name, parameters).invoke(self < 0 ? null : objects.get(self), arguments);
        }
        out.writeByte('v');
        Wire.write(out, value, 0);
        for (int index = 0; index < arguments.length; index++) {
            byte[] after = Wire.encode(arguments[index]);
            boolean changed = !Arrays.equals(before[index], after);
            out.writeByte(changed ? 'T' : 'U');
            if (changed) {
                out.write(after);
            }
        }
    }

    /** The method whose parameters are of these classes, else one with as many. */
    private static Method method(Class<?> type, String name, List<?> parameters) throws NoSuchMethodException {
        Method found = null;
        for (Class<?> owner = type; owner != null && found == null; owner = owner.getSuperclass()) {
            for (Method method : owner.getDeclaredMethods()) {
                boolean fits = method.getName().equals(name) && method.getParameterCount() == parameters.size();
                if (fits && !method.isBridge() && (found == null || namesOf(method).equals(parameters))) {
                    found = method;
                }
            }
        }
        if (found == null) {
            throw new NoSuchMethodException("the program has no method " + name + " with " + parameters.size() + " parameters");
        }
        found.setAccessible(true);
        return found;
    }

    /** The names of the classes of a method's parameters. */
    static List<String> namesOf(Method method) {
        List<String> names = new ArrayList<>();
        for (Class<?> parameter : method.getParameterTypes()) {
            names.add(parameter.getName());
        }
        return names;
    }

    /** An exception: its classes, most special first, and its text. */
    private static byte[] thrown(String stage, Throwable problem) throws IOException {
        List<String> names = new ArrayList<>();
        for (Class<?> type = problem.getClass(); type != Object.class; type = type.getSuperclass()) {
            names.add(type.getName());
        }
        String text;
        try {
            text = String.valueOf(problem.getMessage());
        } catch (Exception | Error another) {
            text = "";
        }
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        DataOutputStream out = new DataOutputStream(bytes);
        out.writeByte('x');
        Wire.write(out, stage, 0);
        Wire.write(out, names, 0);
        Wire.write(out, text.length() > 2000 ? text.substring(0, 2000) : text, 0);
        return bytes.toByteArray();
    }
}
