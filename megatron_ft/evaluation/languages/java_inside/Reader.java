package megatron_ft;

import java.io.ByteArrayInputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.lang.reflect.Array;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.util.AbstractMap;
import java.util.ArrayList;
import java.util.Arrays;
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
import java.util.TreeMap;
import java.util.TreeSet;

/** Takes values from a message; it runs no code of the side that wrote it, and makes no class of its choice. */
final class Reader {
    private final ByteArrayInputStream bytes;
    private final DataInputStream in;
    private final List<String> opaque = new ArrayList<>();

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
            throw new Wire.Breach("an answer that is no value");
        }
    }

    private Object read(int depth) throws IOException {
        if (depth > 2 * Wire.DEPTH_LIMIT) {
            throw new Wire.Breach("nested too deep");
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
            case '?' -> opaque();
            case 'G', 'X' -> big(tag == 'G');
            case 'L', 'S', 'M', 'O', 'E' -> collection(tag, in.readByte(), items(depth));
            case 'A' -> array(in.readByte(), in.readByte(), items(depth));
            default -> throw new Wire.Breach("an unknown tag");
        };
    }

    private Object opaque() throws IOException {
        opaque.add(text());
        return new Wire.Opaque(opaque.get(opaque.size() - 1));
    }

    /** The classes of those values read so far that were not carried. */
    List<String> opaqueClasses() {
        return opaque;
    }

    /** A count, checked before anything is allocated for it against the bytes that are left. */
    private int count(int bytesEach) throws IOException {
        int count = in.readInt();
        if (count < 0 || (long) count * bytesEach > bytes.available()) {
            throw new Wire.Breach("more items than bytes");
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
                case Wire.FIXED -> Arrays.asList(items.toArray());
                case Wire.UNCHANGEABLE -> Collections.unmodifiableList(items);
                case Wire.LINKED -> new LinkedList<>(items);
                default -> items;
            };
            case 'S' -> switch (kind) {
                case Wire.SORTED -> new TreeSet<>(items);
                case Wire.UNCHANGEABLE -> Collections.unmodifiableSet(new LinkedHashSet<>(items));
                case Wire.LINKED -> new LinkedHashSet<>(items);
                default -> new HashSet<>(items);
            };
            case 'M' -> map(kind, items);
            case 'O' -> optional(kind, items);
            default -> new AbstractMap.SimpleEntry<>(items.get(0), items.get(1));
        };
    }

    private static Object map(byte kind, List<Object> items) {
        Map<Object, Object> map = kind == Wire.SORTED ? new TreeMap<>() : kind == Wire.PLAIN ? new HashMap<>() : new LinkedHashMap<>();
        for (int index = 0; index < items.size(); index += 2) {
            map.put(items.get(index), items.get(index + 1));
        }
        return kind == Wire.UNCHANGEABLE ? Collections.unmodifiableMap(map) : map;
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
        Class<?> type = Wire.COMPONENTS.get(component);
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
