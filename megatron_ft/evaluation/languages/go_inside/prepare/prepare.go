// Command prepare makes one Go file of each half of a case: `prepare IMPORTCFG`, the job as JSON on stdin, Go on stdout.
//
// The text of a model need not be a whole file: it may begin with a package clause or not, import what it does not use
// and use what it does not import, and define main. Both halves get the helpers that stand in the problem's prompt and
// exactly those imports that they use.
package main

import (
	"encoding/json"
	"fmt"
	"os"
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
	var asked job
	err := json.NewDecoder(os.Stdin).Decode(&asked)
	if err == nil {
		var made string
		if made, err = makeFile(asked, standardPackages(os.Args[1])); err == nil {
			_, err = os.Stdout.WriteString(made)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func makeFile(asked job, standard map[string]string) (string, error) {
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
		return testsFile(asked, prompt, promptFile, wanted, standard)
	}
	program := split(asked.Program)
	file, err := parse(program.text, "program.go")
	if err != nil {
		return "", err
	}
	ours := missing(promptFile, file, asked.Entry) + answering(wanted)
	return whole(source{withoutMain(file), append(program.imports, prompt.imports...)}, ours, "program.go", standard)
}

func testsFile(asked job, prompt source, promptFile *parsed, wanted signature, standard map[string]string) (string, error) {
	setup, tests := split(asked.Setup), split(asked.Tests)
	file, err := parse(tests.text, "tests.go")
	if err != nil {
		return "", err
	}
	names := testsIn(file)
	if len(names) == 0 {
		return "", fmt.Errorf("the tests have no function Test...(t *testing.T)")
	}
	ours := setup.text + "\n" + missing(promptFile, file, asked.Entry) + asking(wanted) + running(names, asked.Tests)
	imports := append(append(setup.imports, tests.imports...), prompt.imports...)
	return whole(source{tests.text, imports}, ours, "tests.go", standard)
}
