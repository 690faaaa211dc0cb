package megatron_ft;

import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.lang.reflect.Array;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.AbstractList;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.OptionalInt;
import java.util.OptionalLong;
import java.util.Set;
import java.util.SortedMap;
import java.util.SortedSet;

/**
 * Values as bytes, read on both sides of the wall between a tested program and its tests.
 *
 * <p>Reading runs no code of the other side and makes no class of its choice: bytes become values of the classes below, and
 * whatever else a program returns arrives as an Opaque, which equals nothing but itself. Collections arrive as plain ones of
 * java.util, so that a list whose equals() always agrees is just its items.
 */
final class Wire {
    static final int DEPTH_LIMIT = 500;

    /** The other side sent what the protocol does not know. */
    static final class Breach extends RuntimeException {
        Breach(String text) {
            super(text);
        }
    }

    /** A value of a class that is not carried. */
    static final class Opaque {
        private final String type;

        Opaque(String type) {
            this.type = type;
        }

        @Override
        public String toString() {
            return "<" + type + ", not carried to the tests>";
        }
    }

    // Kinds of collections; those that cannot be changed stay so, because a program may run into that.
    static final byte PLAIN = 0, LINKED = 1, SORTED = 2, FIXED = 3, UNCHANGEABLE = 4;
    private static final Class<?> AS_LIST = Arrays.asList().getClass();
    private static final String IMMUTABLE = "java.util.ImmutableCollections";
    static final List<Class<?>> COMPONENTS = List.of(boolean.class, byte.class, short.class, int.class, long.class,
            float.class, double.class, char.class, Object.class, String.class, Boolean.class, Byte.class, Short.class,
            Integer.class, Long.class, Float.class, Double.class, Character.class, Number.class, List.class, Map.class,
            Set.class, Optional.class, BigInteger.class, BigDecimal.class, ArrayList.class, CharSequence.class,
            Comparable.class, Collection.class);

    private Wire() {}

    /** The classes of what is not carried of a value, wherever it lies in it; null for one that is nested too deep. */
    static List<String> uncarried(Object value) {
        try {
            Reader reader = new Reader(encode(value));
            reader.read();
            return reader.opaqueClasses();
        } catch (RuntimeException | StackOverflowError problem) {
            return null;
        }
    }

    static byte[] encode(Object value) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try {
            write(new DataOutputStream(bytes), value, 0);
        } catch (IOException impossible) {
            throw new IllegalStateException(impossible);
        }
        return bytes.toByteArray();
    }

    static void write(DataOutputStream out, Object value, int depth) throws IOException {
        if (depth > DEPTH_LIMIT) {
            throw new IllegalArgumentException("a value that is nested too deep");
        }
        if (value == null) {
            out.writeByte('N');
        } else if (value instanceof Boolean truth) {
            out.writeByte(truth ? 'T' : 'U');
        } else if (value instanceof Number || value instanceof Character) {
            writeNumber(out, value);
        } else if (value instanceof String text) {
            out.writeByte('s');
            writeText(out, text);
        } else if (value instanceof StringBuilder text) {
            out.writeByte('b');
            writeText(out, text.toString());
        } else if (value instanceof List<?> list) {
            writeItems(out, 'L', kind(list), new ArrayList<>(list), depth);
        } else if (value instanceof Set<?> set) {
            writeItems(out, 'S', kind(set), new ArrayList<>(set), depth);
        } else if (value instanceof Map<?, ?> map) {
            List<Object> items = new ArrayList<>();
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                items.add(entry.getKey());
                items.add(entry.getValue());
            }
            writeItems(out, 'M', kind(map), items, depth);
        } else {
            writeRare(out, value, depth);
        }
    }

    private static void writeNumber(DataOutputStream out, Object value) throws IOException {
        if (value instanceof Integer number) {
            out.writeByte('I');
            out.writeInt(number);
        } else if (value instanceof Long number) {
            out.writeByte('J');
            out.writeLong(number);
        } else if (value instanceof Double number) {
            out.writeByte('D');
            out.writeLong(Double.doubleToRawLongBits(number));
        } else if (value instanceof Float number) {
            out.writeByte('F');
            out.writeInt(Float.floatToRawIntBits(number));
        } else if (value instanceof Character letter) {
            out.writeByte('C');
            out.writeChar(letter);
        } else if (value instanceof Short number) {
            out.writeByte('H');
            out.writeShort(number);
        } else if (value instanceof Byte number) {
            out.writeByte('B');
            out.writeByte(number);
        } else if (value.getClass() == BigInteger.class || value.getClass() == BigDecimal.class) {
            BigDecimal number = value instanceof BigInteger whole ? new BigDecimal(whole) : (BigDecimal) value;
            byte[] digits = number.unscaledValue().toByteArray();
            out.writeByte(value instanceof BigInteger ? 'G' : 'X');
            out.writeInt(number.scale());
            out.writeInt(digits.length);
            out.write(digits);
        } else {
            writeOpaque(out, value);
        }
    }

    private static void writeRare(DataOutputStream out, Object value, int depth) throws IOException {
        if (value instanceof Optional<?> held) {
            writeItems(out, 'O', PLAIN, held.isPresent() ? List.of(held.get()) : List.of(), depth);
        } else if (value instanceof OptionalInt held) {
            writeItems(out, 'O', (byte) 'I', held.isPresent() ? List.of(held.getAsInt()) : List.of(), depth);
        } else if (value instanceof OptionalLong held) {
            writeItems(out, 'O', (byte) 'J', held.isPresent() ? List.of(held.getAsLong()) : List.of(), depth);
        } else if (value instanceof OptionalDouble held) {
            writeItems(out, 'O', (byte) 'D', held.isPresent() ? List.of(held.getAsDouble()) : List.of(), depth);
        } else if (value instanceof Map.Entry<?, ?> entry) {
            writeItems(out, 'E', PLAIN, Arrays.asList(entry.getKey(), entry.getValue()), depth);
        } else if (value.getClass().isArray() && dimensionsOf(value.getClass()) != null) {
            out.writeByte('A');
            out.write(dimensionsOf(value.getClass()));
            writeItems(out, itemsOf(value), depth);
        } else {
            writeOpaque(out, value);
        }
    }

    private static void writeOpaque(DataOutputStream out, Object value) throws IOException {
        out.writeByte('?');
        writeText(out, value.getClass().getName());
    }

    private static void writeText(DataOutputStream out, String text) throws IOException {
        out.writeInt(text.length());
        out.writeChars(text); // each char as it is: half of a pair is a value like any other
    }

    private static void writeItems(DataOutputStream out, char tag, byte kind, List<?> items, int depth) throws IOException {
        out.writeByte(tag);
        out.writeByte(kind);
        writeItems(out, items, depth);
    }

    private static void writeItems(DataOutputStream out, List<?> items, int depth) throws IOException {
        out.writeInt(items.size());
        for (Object item : items) {
            write(out, item, depth + 1);
        }
    }

    private static List<Object> itemsOf(Object array) {
        return new AbstractList<>() {
            @Override
            public Object get(int index) {
                return Array.get(array, index);
            }

            @Override
            public int size() {
                return Array.getLength(array);
            }
        };
    }

    /** How many dimensions an array has, and which of COMPONENTS it holds; null for an array of another class. */
    private static byte[] dimensionsOf(Class<?> type) {
        byte dimensions = 0;
        for (; type.isArray(); type = type.getComponentType()) {
            dimensions++;
        }
        int component = COMPONENTS.indexOf(type);
        return component < 0 ? null : new byte[] {dimensions, (byte) component};
    }

    private static byte kind(Object collection) {
        Class<?> type = collection.getClass();
        if (type == AS_LIST) {
            return FIXED;
        }
        if (type.getName().startsWith(IMMUTABLE) || type.getName().startsWith("java.util.Collections$Unmodifiable")) {
            return UNCHANGEABLE;
        }
        if (collection instanceof SortedSet<?> set) {
            return set.comparator() == null ? SORTED : LINKED; // an order of the program's own is kept as it came out
        }
        if (collection instanceof SortedMap<?, ?> map) {
            return map.comparator() == null ? SORTED : LINKED;
        }
        boolean plain = type == ArrayList.class || type == HashMap.class || type == HashSet.class;
        return plain || collection instanceof List && type != LinkedList.class ? PLAIN : LINKED;
    }
}
