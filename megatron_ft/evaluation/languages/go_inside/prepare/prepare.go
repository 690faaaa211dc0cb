// Command prepare makes one Go file of each half of a case: `prepare IMPORTCFG`, the job as JSON on stdin, Go on stdout.
//
// With a folder for its second argument it reads a list of jobs, whose tests are to be one executable: each becomes a package
// in a file of its own, and main.go calls the one whose number is the first argument. table.compile and table.link are the
// tables of archives with these packages.
//
// The text of a model need not be a whole file: it may begin with a package clause or not, import what it does not use
// and use what it does not import, and define main. Both halves get the helpers that stand in the problem's prompt and
// exactly those imports that they use.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// job is what the evaluator asks for; `Tests` is empty for the program's half.
type job struct {
	Entry   string // the function's name
	Prompt  string // the problem's: imports, helpers, and the beginning of the function
	Program string
	Setup   string // how the file of the tests begins
	Tests   string
}

func main() {
	var err error
	if len(os.Args) > 2 {
		err = together(os.Args[1], os.Args[2])
	} else {
		err = alone(os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func alone(table string) error {
	var asked job
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		return err
	}
	made, err := makeFile(asked, "main", standardPackages(table))
	if err == nil {
		_, err = os.Stdout.WriteString(made)
	}
	return err
}

func together(table, folder string) error {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		return err
	}
	standard := standardPackages(table)
	files := map[string]string{}
	imports, cases, archives := "", "", ""
	for number, asked := range jobs {
		name := fmt.Sprintf("p%d", number)
		made, err := makeFile(asked, name, standard)
		if err != nil {
			return err
		}
		files[name+".go"] = made
		imports += fmt.Sprintf("import %q\n", name)
		cases += fmt.Sprintf("\tcase \"%d\":\n\t\t%s.Main()\n", number, name)
		archives += fmt.Sprintf("packagefile %s=%s\n", name, filepath.Join(folder, name+".a"))
	}
	files["main.go"] = "package main\nimport \"os\"\n" + imports + "func main() {\n\tswitch os.Args[1] {\n" + cases + "\t}\n}\n"
	for _, tool := range []string{"compile", "link"} {
		known, err := os.ReadFile(strings.TrimSuffix(table, "compile") + tool)
		if err != nil {
			return err
		}
		files["table."+tool] = string(known) + archives
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeFile is a half as a file of a package: main, or one that others call.
func makeFile(asked job, pkg string, standard map[string]string) (string, error) {
	prompt := split(asked.Prompt + "\n}")
	promptFile, err := parse(prompt.text, "prompt.go")
	if err != nil {
		return "", err
	}
	wanted, err := signatureOf(promptFile, asked.Entry)
	if err != nil {
		return "", err
	}
	if asked.Tests != "" {
		return testsFile(asked, pkg, prompt, promptFile, wanted, standard)
	}
	program := split(asked.Program)
	file, err := parse(program.text, "program.go")
	if err != nil {
		return "", err
	}
	ours := missing(promptFile, file, asked.Entry) + answering(wanted)
	return whole(source{withoutMain(file), append(program.imports, prompt.imports...)}, ours, pkg, "program.go", standard)
}

func testsFile(asked job, pkg string, prompt source, promptFile *parsed, wanted signature,
	standard map[string]string) (string, error) {
	setup, tests := split(asked.Setup), split(asked.Tests)
	file, err := parse(tests.text, "tests.go")
	if err != nil {
		return "", err
	}
	names := testsIn(file)
	if len(names) == 0 {
		return "", fmt.Errorf("the tests have no function Test...(t *testing.T)")
	}
	ours := setup.text + "\n" + missing(promptFile, file, asked.Entry) + asking(wanted) + running(names, asked.Tests, pkg)
	imports := append(append(setup.imports, tests.imports...), prompt.imports...)
	return whole(source{tests.text, imports}, ours, pkg, "tests.go", standard)
}
