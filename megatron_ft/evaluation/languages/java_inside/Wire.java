package megatron_ft;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.lang.reflect.Array;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.AbstractMap;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
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
import java.util.TreeMap;
import java.util.TreeSet;

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
    private static final byte PLAIN = 0, LINKED = 1, SORTED = 2, FIXED = 3, UNCHANGEABLE = 4;
    private static final Class<?> AS_LIST = Arrays.asList().getClass();
    private static final String IMMUTABLE = "java.util.ImmutableCollections";
    private static final List<Class<?>> COMPONENTS = List.of(boolean.class, byte.class, short.class, int.class, long.class,
            float.class, double.class, char.class, Object.class, String.class, Boolean.class, Byte.class, Short.class,
            Integer.class, Long.class, Float.class, Double.class, Character.class, Number.class, List.class, Map.class,
            Set.class, Optional.class, BigInteger.class, BigDecimal.class, ArrayList.class, CharSequence.class,
            Comparable.class, Collection.class);

    private Wire() {}

    /** Whether a value and all in it is carried as what it is. */
    static boolean carries(Object value) {
        try {
            return !(new Reader(encode(value)).read() instanceof Opaque);
        } catch (RuntimeException | StackOverflowError problem) {
            return false;
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
            int count = Array.getLength(value);
            out.writeInt(count);
            for (int index = 0; index < count; index++) {
                write(out, Array.get(value, index), depth + 1);
            }
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
        out.writeInt(items.size());
        for (Object item : items) {
            write(out, item, depth + 1);
        }
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

    /** Takes values from a message. */
    static final class Reader {
        private final ByteArrayInputStream bytes;
        private final DataInputStream in;

        Reader(byte[] message) {
            bytes = new ByteArrayInputStream(message);
            in = new DataInputStream(bytes);
        }

        /** The next byte. */
        byte tag() {
            int tag = bytes.read();
            return (byte) tag;
        }

        /** The next value; Breach for bytes that are none. */
        Object read() {
            try {
                return read(0);
            } catch (IOException | RuntimeException | StackOverflowError | OutOfMemoryError problem) {
                throw new Breach("an answer that is no value");
            }
        }

        private Object read(int depth) throws IOException {
            if (depth > 2 * DEPTH_LIMIT) {
                throw new Breach("nested too deep");
            }
            byte tag = in.readByte();
            return switch (tag) {
                case 'N' -> null;
                case 'T' -> true;
                case 'U' -> false;
                case 'I' -> in.readInt();
                case 'J' -> in.readLong();
                case 'D' -> Double.longBitsToDouble(in.readLong());
                case 'F' -> Float.intBitsToFloat(in.readInt());
                case 'C' -> in.readChar();
                case 'H' -> in.readShort();
                case 'B' -> in.readByte();
                case 's' -> text();
                case 'b' -> new StringBuilder(text());
                case '?' -> new Opaque(text());
                case 'G', 'X' -> big(tag == 'G');
                case 'L', 'S', 'M', 'O', 'E' -> collection(tag, in.readByte(), items(depth));
                case 'A' -> array(in.readByte(), in.readByte(), items(depth));
                default -> throw new Breach("an unknown tag");
            };
        }

        /** A count, checked before anything is allocated for it against the bytes that are left. */
        private int count(int bytesEach) throws IOException {
            int count = in.readInt();
            if (count < 0 || (long) count * bytesEach > bytes.available()) {
                throw new Breach("more items than bytes");
            }
            return count;
        }

        String text() throws IOException {
            char[] letters = new char[count(2)];
            for (int index = 0; index < letters.length; index++) {
                letters[index] = in.readChar();
            }
            return new String(letters).intern(); // a literal is one object in one JVM, and Java/137 compares with ==
        }

        private Object big(boolean whole) throws IOException {
            int scale = in.readInt();
            BigInteger digits = new BigInteger(in.readNBytes(count(1)));
            return whole ? digits : new BigDecimal(digits, scale);
        }

        private List<Object> items(int depth) throws IOException {
            int count = count(1);
            List<Object> items = new ArrayList<>(count);
            for (int index = 0; index < count; index++) {
                items.add(read(depth + 1));
            }
            return items;
        }

        private static Object collection(byte tag, byte kind, List<Object> items) {
            return switch (tag) {
                case 'L' -> switch (kind) {
                    case FIXED -> Arrays.asList(items.toArray());
                    case UNCHANGEABLE -> Collections.unmodifiableList(items);
                    case LINKED -> new LinkedList<>(items);
                    default -> items;
                };
                case 'S' -> switch (kind) {
                    case SORTED -> new TreeSet<>(items);
                    case UNCHANGEABLE -> Collections.unmodifiableSet(new LinkedHashSet<>(items));
                    case LINKED -> new LinkedHashSet<>(items);
                    default -> new HashSet<>(items);
                };
                case 'M' -> map(kind, items);
                case 'O' -> optional(kind, items);
                default -> new AbstractMap.SimpleEntry<>(items.get(0), items.get(1));
            };
        }

        private static Object map(byte kind, List<Object> items) {
            Map<Object, Object> map = kind == SORTED ? new TreeMap<>() : kind == PLAIN ? new HashMap<>() : new LinkedHashMap<>();
            for (int index = 0; index < items.size(); index += 2) {
                map.put(items.get(index), items.get(index + 1));
            }
            return kind == UNCHANGEABLE ? Collections.unmodifiableMap(map) : map;
        }

        private static Object optional(byte kind, List<Object> items) {
            boolean empty = items.isEmpty();
            return switch (kind) {
                case 'I' -> empty ? OptionalInt.empty() : OptionalInt.of((Integer) items.get(0));
                case 'J' -> empty ? OptionalLong.empty() : OptionalLong.of((Long) items.get(0));
                case 'D' -> empty ? OptionalDouble.empty() : OptionalDouble.of((Double) items.get(0));
                default -> empty ? Optional.empty() : Optional.of(items.get(0));
            };
        }

        private static Object array(byte dimensions, byte component, List<Object> items) {
            Class<?> type = COMPONENTS.get(component);
            for (int dimension = 1; dimension < dimensions; dimension++) {
                type = type.arrayType();
            }
            Object array = Array.newInstance(type, items.size());
            for (int index = 0; index < items.size(); index++) {
                Array.set(array, index, items.get(index));
            }
            return array;
        }
    }
}
