package main

import (
	"fmt"
	"go/ast"
	"go/scanner"
	"go/token"
	"os"
	"regexp"
	"sort"
	"strings"
)

// source is a text without its package clause and imports, which are blanked so that every line keeps its number.
type source struct {
	text    string
	imports []spec
}

// spec is one import: its name, "" where none is given, and its path.
type spec struct{ name, path string }

// added are the imports of what this command adds.
var added = []spec{{"megatronFtAsk", "megatron_ft/ask"}, {"megatronFtAnswer", "megatron_ft/answer"}}

// preferred are the packages meant by names that several have.
var preferred = map[string]string{"rand": "math/rand", "template": "text/template", "scanner": "text/scanner"}

// split blanks package clauses and imports, wherever they stand: a function written anew may bring its own.
func split(text string) source {
	var found source
	blanked := []byte(text)
	files := token.NewFileSet()
	file := files.AddFile("", -1, len(text))
	var scan scanner.Scanner
	scan.Init(file, []byte(text), nil, 0)
	depth := 0
	for position, kind, _ := scan.Scan(); kind != token.EOF; position, kind, _ = scan.Scan() {
		switch kind {
		case token.LBRACE, token.LPAREN, token.LBRACK:
			depth++
		case token.RBRACE, token.RPAREN, token.RBRACK:
			depth--
		case token.PACKAGE, token.IMPORT:
			if depth == 0 {
				end := found.clause(&scan, kind)
				for at := file.Offset(position); at < file.Offset(end) && at < len(blanked); at++ {
					if blanked[at] != '\n' {
						blanked[at] = ' '
					}
				}
			}
		}
	}
	found.text = string(blanked)
	return found
}

// clause reads what follows `package` or `import`, keeps the imports, and gives its end.
func (found *source) clause(scan *scanner.Scanner, keyword token.Token) token.Pos {
	name, listed := "", false
	for {
		position, kind, text := scan.Scan()
		switch kind {
		case token.EOF:
			return position
		case token.LPAREN:
			listed = true
		case token.RPAREN:
			return position + 1
		case token.IDENT, token.PERIOD:
			name = text
			if kind == token.PERIOD {
				name = "."
			}
		case token.STRING:
			if keyword == token.IMPORT {
				found.imports = append(found.imports, spec{name, strings.Trim(text, "\"`")})
			}
			name = ""
		case token.SEMICOLON:
			if !listed && text == ";" {
				return position + 1
			} else if !listed {
				return position
			}
		}
	}
}

// standardPackages gives the path of each package of the standard library by its name, from the table of archives.
func standardPackages(table string) map[string]string {
	text, err := os.ReadFile(table)
	if err != nil {
		panic(err)
	}
	found := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		path, _, listed := strings.Cut(strings.TrimPrefix(line, "packagefile "), "=")
		first, _, _ := strings.Cut(path, "/")
		if !listed || strings.Contains(first, ".") || first == "vendor" || first == "megatron_ft" ||
			strings.Contains("/"+path+"/", "/internal/") {
			continue
		}
		name := packageName(path)
		if known, is := found[name]; !is || strings.Count(path, "/") < strings.Count(known, "/") {
			found[name] = path
		}
	}
	for name, path := range preferred {
		found[name] = path
	}
	return found
}

var version = regexp.MustCompile(`^v[0-9]+$`)

func packageName(path string) string {
	parts := strings.Split(path, "/")
	if last := len(parts) - 1; last > 0 && version.MatchString(parts[last]) {
		return parts[last-1]
	}
	return parts[len(parts)-1]
}

// whole puts a file together: a text, what this command adds, and the imports that both use.
func whole(given source, ours, pkg, name string, standard map[string]string) (string, error) {
	text := given.text + "\n//line megatron_ft.go:1:1\n" + ours
	file, err := parse(text, name)
	if err != nil {
		return "", err
	}
	clauses := "package " + pkg + ";"
	for _, used := range used(file.tree) {
		if path := pathOf(used, append(given.imports, added...), standard); path != "" {
			clauses += fmt.Sprintf(" import %s %q;", used, path)
		}
	}
	for _, own := range given.imports {
		if own.name == "_" || own.name == "." {
			clauses += fmt.Sprintf(" import %s %q;", own.name, own.path)
		}
	}
	return clauses + "\n//line " + name + ":1:1\n" + text, nil
}

// used are the names before a dot that the file itself declares nowhere.
func used(tree *ast.File) []string {
	unresolved := map[*ast.Ident]bool{}
	for _, name := range tree.Unresolved {
		unresolved[name] = true
	}
	names := map[string]bool{}
	ast.Inspect(tree, func(node ast.Node) bool {
		if selector, is := node.(*ast.SelectorExpr); is {
			if name, is := selector.X.(*ast.Ident); is && unresolved[name] {
				names[name.Name] = true
			}
		}
		return true
	})
	sorted := []string{}
	for name := range names {
		sorted = append(sorted, name)
	}
	sort.Strings(sorted)
	return sorted
}

func pathOf(name string, imports []spec, standard map[string]string) string {
	for _, given := range imports {
		if given.name == name || given.name == "" && packageName(given.path) == name {
			return given.path
		}
	}
	return standard[name]
}
