package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
)

// parsed is a text without package clause and its syntax tree.
type parsed struct {
	text string
	tree *ast.File
	from int // where the text begins in what was parsed
}

// signature is how a function is called.
type signature struct {
	name                string
	parameters, results []string // their types
	variadic            bool
}

func parse(text, name string) (*parsed, error) {
	clause := "package main;\n//line " + name + ":1:1\n"
	tree, err := parser.ParseFile(token.NewFileSet(), name, clause+text, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	for _, group := range tree.Comments {
		for _, comment := range group.List {
			// They reach into what stands before the program, and no honest answer needs them.
			if strings.HasPrefix(comment.Text, "//go:linkname") || strings.HasPrefix(comment.Text, "//go:cgo_") {
				return nil, fmt.Errorf("%s: %s is not allowed here", name, strings.Fields(comment.Text)[0])
			}
		}
	}
	return &parsed{text, tree, 1 + len(clause)}, nil // positions of a new FileSet begin with 1
}

func (file *parsed) textOf(node ast.Node) string {
	return file.text[int(node.Pos())-file.from : int(node.End())-file.from]
}

// names are what a declaration declares; a method counts under its type's name.
func names(declaration ast.Decl) []string {
	found := []string{}
	switch declaration := declaration.(type) {
	case *ast.FuncDecl:
		name := declaration.Name.Name
		if declaration.Recv != nil {
			ast.Inspect(declaration.Recv.List[0].Type, func(node ast.Node) bool {
				if kind, is := node.(*ast.Ident); is {
					name += "." + kind.Name
				}
				return true
			})
		}
		found = append(found, name)
	case *ast.GenDecl:
		for _, each := range declaration.Specs {
			switch each := each.(type) {
			case *ast.TypeSpec:
				found = append(found, each.Name.Name)
			case *ast.ValueSpec:
				for _, name := range each.Names {
					found = append(found, name.Name)
				}
			}
		}
	}
	return found
}

// missing is the text of the prompt's helpers that a file does not declare itself.
func missing(prompt, file *parsed, entry string) string {
	declared := map[string]bool{entry: true}
	for _, declaration := range file.tree.Decls {
		for _, name := range names(declaration) {
			declared[name] = true
		}
	}
	text := ""
	for _, declaration := range prompt.tree.Decls {
		wanted := true
		for _, name := range names(declaration) {
			wanted = wanted && !declared[name]
		}
		if wanted {
			text += prompt.textOf(declaration) + "\n"
		}
	}
	return text
}

// withoutMain is the text of a program whose own main is a function without a name, so that ours is the only one.
func withoutMain(file *parsed) string {
	text := file.text
	for _, declaration := range file.tree.Decls {
		if function, is := declaration.(*ast.FuncDecl); is && function.Recv == nil && function.Name.Name == "main" {
			at := int(function.Name.Pos()) - file.from
			text = text[:at] + "_   " + text[at+len("main"):]
		}
	}
	return text
}

func signatureOf(prompt *parsed, entry string) (signature, error) {
	for _, declaration := range prompt.tree.Decls {
		function, is := declaration.(*ast.FuncDecl)
		if !is || function.Recv != nil || function.Name.Name != entry {
			continue
		}
		found := signature{name: entry}
		found.parameters, found.variadic = typesIn(function.Type.Params, prompt)
		found.results, _ = typesIn(function.Type.Results, prompt)
		return found, nil
	}
	return signature{}, fmt.Errorf("the prompt does not begin the function %s", entry)
}

func typesIn(fields *ast.FieldList, file *parsed) (types []string, variadic bool) {
	if fields == nil {
		return nil, false
	}
	for _, field := range fields.List {
		text := file.textOf(field.Type)
		if _, variadic = field.Type.(*ast.Ellipsis); variadic {
			text = "[]" + strings.TrimPrefix(text, "...")
		}
		types = append(types, text)
		for range field.Names[min(1, len(field.Names)):] {
			types = append(types, text)
		}
	}
	return types, variadic
}

func min(a, b int) int {
	if a < b {
		return a
	}
	return b
}

func declare(letter string, types []string) (declared, names []string) {
	for index, kind := range types {
		name := letter + strconv.Itoa(index)
		declared, names = append(declared, name+" "+kind), append(names, name)
	}
	return declared, names
}

// asking is the function as the tests call it: it asks the program.
func asking(wanted signature) string {
	parameters, arguments := declare("p", wanted.parameters)
	results, returned := declare("r", wanted.results)
	if last := len(parameters) - 1; wanted.variadic {
		parameters[last] = strings.Replace(parameters[last], "[]", "...", 1)
	}
	return fmt.Sprintf("func %s(%s) (%s) { megatronFtAsk.Call(%q, []interface{}{%s}, []interface{}{%s}); return }\n",
		wanted.name, strings.Join(parameters, ", "), strings.Join(results, ", "), wanted.name,
		addresses(arguments), addresses(returned))
}

func addresses(names []string) string {
	text := ""
	for _, name := range names {
		text += "&" + name + ", "
	}
	return text
}

// answering calls the program's function as the tests would: what fits there fits here.
func answering(wanted signature) string {
	parameters, arguments := declare("p", wanted.parameters)
	call := wanted.name + "(" + strings.Join(arguments, ", ")
	if wanted.variadic {
		call += "..."
	}
	if call += ")"; len(wanted.results) > 0 {
		call = "return " + call
	}
	return fmt.Sprintf("func init() { megatronFtAnswer.Function(func(%s) (%s) { %s }) }\n"+
		"func main() { megatronFtAnswer.Serve() }\n",
		strings.Join(parameters, ", "), strings.Join(wanted.results, ", "), call)
}

// testsIn are the names of the tests of a file.
func testsIn(file *parsed) []string {
	found := []string{}
	for _, declaration := range file.tree.Decls {
		function, is := declaration.(*ast.FuncDecl)
		if is && function.Recv == nil && strings.HasPrefix(function.Name.Name, "Test") &&
			function.Type.Params.NumFields() == 1 {
			found = append(found, function.Name.Name)
		}
	}
	return found
}

// running is the main function of the tests, or in another package what that calls.
func running(tests []string, text, pkg string) string {
	name := "Main"
	if pkg == "main" {
		name = "main"
	}
	call := "func " + name + "() { megatronFtAsk.Run(" + strconv.Quote(text)
	for _, name := range tests {
		call += fmt.Sprintf(", megatronFtAsk.Test{Name: %q, Run: %s}", name, name)
	}
	return call + ") }\n"
}
