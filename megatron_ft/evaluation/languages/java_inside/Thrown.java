package megatron_ft;

import java.util.ConcurrentModificationException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.function.Function;

/** A program's exceptions on the tests' side: of the same class where it is one of these, else of its nearest parent. */
final class Thrown {
    private static final Map<String, Function<String, Throwable>> KNOWN = new HashMap<>();

    static {
        KNOWN.put("java.lang.Exception", Exception::new);
        KNOWN.put("java.lang.Error", Error::new);
        KNOWN.put("java.lang.AssertionError", AssertionError::new);
        KNOWN.put("java.lang.StackOverflowError", StackOverflowError::new);
        KNOWN.put("java.lang.OutOfMemoryError", OutOfMemoryError::new);
        KNOWN.put("java.lang.RuntimeException", RuntimeException::new);
        KNOWN.put("java.lang.ArithmeticException", ArithmeticException::new);
        KNOWN.put("java.lang.ArrayStoreException", ArrayStoreException::new);
        KNOWN.put("java.lang.ClassCastException", ClassCastException::new);
        KNOWN.put("java.lang.IllegalArgumentException", IllegalArgumentException::new);
        KNOWN.put("java.lang.IllegalStateException", IllegalStateException::new);
        KNOWN.put("java.lang.IndexOutOfBoundsException", IndexOutOfBoundsException::new);
        KNOWN.put("java.lang.ArrayIndexOutOfBoundsException", ArrayIndexOutOfBoundsException::new);
        KNOWN.put("java.lang.StringIndexOutOfBoundsException", StringIndexOutOfBoundsException::new);
        KNOWN.put("java.lang.NegativeArraySizeException", NegativeArraySizeException::new);
        KNOWN.put("java.lang.NullPointerException", NullPointerException::new);
        KNOWN.put("java.lang.NumberFormatException", NumberFormatException::new);
        KNOWN.put("java.lang.UnsupportedOperationException", UnsupportedOperationException::new);
        KNOWN.put("java.util.ConcurrentModificationException", ConcurrentModificationException::new);
        KNOWN.put("java.util.NoSuchElementException", NoSuchElementException::new);
        KNOWN.put("java.io.IOException", java.io.IOException::new);
        KNOWN.put("java.security.NoSuchAlgorithmException", java.security.NoSuchAlgorithmException::new);
    }

    private Thrown() {}

    /** The exception of the first known name; the text says which it was in the program if it is a parent's. */
    static Throwable nearest(List<?> names, String text) {
        for (Object name : names) {
            Function<String, Throwable> make = KNOWN.get(name);
            if (make != null) {
                return make.apply(name.equals(names.get(0)) ? text : names.get(0) + ": " + text);
            }
        }
        return new RuntimeException(names.get(0) + ": " + text);
    }

    /** Lets a checked exception out of a method that does not declare it, as the program's own declaration does. */
    @SuppressWarnings("unchecked")
    static <T extends Throwable> RuntimeException sneaked(Throwable problem) throws T {
        throw (T) problem;
    }
}
