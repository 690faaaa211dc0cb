package megatron_ft;

import java.util.Arrays;

/**
 * What the archive of these classes starts: the class that its first argument names, with the other arguments.
 *
 * <p>An archive's manifest opens java.io to Pipes. The option that does so, --add-opens, makes every JVM start more slowly: it
 * then builds its graph of modules instead of taking the one that comes with the JDK.
 */
final class Start {
    private Start() {}

    public static void main(String[] args) throws Exception {
        String[] others = Arrays.copyOfRange(args, 1, args.length);
        switch (args[0]) {
            case "Answer":
                Answer.main(others);
                break;
            case "Ask":
                Ask.main(others);
                break;
            default:
                Compiler.main(others);
        }
    }
}
