import io.trino.sql.parser.SqlParser;
import java.nio.file.Files;
import java.nio.file.Path;

/** Parses the statement in each file, and prints what it is; fails where one is none. */
public class Statements {
    public static void main(String[] names) throws Exception {
        for (String name : names) {
            String text = Files.readString(Path.of(name)).trim().replaceAll(";$", "");
            System.out.println(new SqlParser().createStatement(text).getClass().getSimpleName());
        }
    }
}
