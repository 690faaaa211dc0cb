package megatron_ft;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.FileInputStream;
import java.io.IOException;
import java.util.LinkedHashMap;
import java.util.Map;

/** Loads classes from an artifact: their number, then for each its name, its size and its bytes. */
final class Classes extends ClassLoader {
    /** The name under which the tests' artifact holds its source, for the reasons that it gives. */
    static final String SOURCE = "source";

    private final Map<String, byte[]> files;

    Classes(Map<String, byte[]> files) {
        super(Classes.class.getClassLoader());
        this.files = files;
    }

    @Override
    protected Class<?> findClass(String name) throws ClassNotFoundException {
        byte[] file = files.get(name);
        if (file == null) {
            throw new ClassNotFoundException(name);
        }
        return defineClass(name, file, 0, file.length);
    }

    /** The class of that simple name, in whatever package; null where there is none. */
    Class<?> named(String simple) throws ClassNotFoundException {
        for (String name : files.keySet()) {
            if (name.equals(simple) || name.endsWith("." + simple)) {
                return loadClass(name);
            }
        }
        return null;
    }

    static Map<String, byte[]> read(String descriptor) throws IOException {
        Map<String, byte[]> files = new LinkedHashMap<>();
        try (DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream(Pipes.descriptor(descriptor))))) {
            for (int left = in.readInt(); left > 0; left--) {
                String name = in.readUTF();
                files.put(name, in.readNBytes(in.readInt()));
            }
        }
        return files;
    }

    static void write(Map<String, byte[]> files, DataOutputStream out) throws IOException {
        out.writeInt(files.size());
        for (Map.Entry<String, byte[]> file : files.entrySet()) {
            out.writeUTF(file.getKey());
            out.writeInt(file.getValue().length);
            out.write(file.getValue());
        }
    }
}
