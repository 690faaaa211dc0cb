package megatron_ft;

import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.lang.reflect.Field;

/** One message after another over a pair of pipes: its length in four bytes, then its bytes. */
final class Pipes {
    /** Bounds one message, and with it what reading one may allocate. */
    static final int MESSAGE_BYTES = 32 << 20;

    private final DataInputStream in;
    private final DataOutputStream out;

    Pipes(String in, String out) {
        this.in = new DataInputStream(new FileInputStream(descriptor(in)));
        this.out = new DataOutputStream(new BufferedOutputStream(new FileOutputStream(descriptor(out))));
    }

    /** The descriptor of that number; java has no other way to one but a name in /dev or /proc, which a box lacks. */
    static FileDescriptor descriptor(String number) {
        try {
            FileDescriptor descriptor = new FileDescriptor();
            Field field = FileDescriptor.class.getDeclaredField("fd");
            field.setAccessible(true);
            field.setInt(descriptor, Integer.parseInt(number));
            return descriptor;
        } catch (ReflectiveOperationException problem) {
            throw new IllegalStateException(problem);
        }
    }

    void send(byte[] message) throws IOException {
        out.writeInt(message.length);
        out.write(message);
        out.flush();
    }

    /** The next message; null at the end of the pipe, Wire.Breach for what is no message. */
    byte[] receive() {
        try {
            int count = in.readInt();
            if (count < 0 || count > MESSAGE_BYTES) {
                throw new Wire.Breach("an answer of more bytes than one may have");
            }
            byte[] message = new byte[count];
            in.readFully(message);
            return message;
        } catch (EOFException ended) {
            return null;
        } catch (IOException gone) {
            return null;
        }
    }
}
