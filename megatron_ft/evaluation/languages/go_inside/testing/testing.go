// Package testing is what tests import as "testing": a T whose first failure ends them with a reason.
//
// The real one takes a table of flags, a profiler and its own exit; what tests of functions call of it is here.
package testing

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

// T is given to a test.
type T struct {
	name     string
	failed   func(reason string)
	cleanups []func()
}

// TB is what T and no other has here.
type TB interface {
	Errorf(format string, arguments ...interface{})
	FailNow()
	Helper()
}

// Run runs one test to its end; `failed` gets the reason of the first failure and does not return.
func Run(name string, test func(*T), failed func(reason string)) {
	over := make(chan struct{})
	go func() { // of its own, because FailNow and Skip end the goroutine
		defer close(over)
		t := &T{name: name, failed: failed}
		defer func() {
			if problem := recover(); problem != nil {
				failed(fmt.Sprint(problem))
			}
		}()
		defer t.cleanUp()
		test(t)
	}()
	<-over
}

func (t *T) cleanUp() {
	for index := len(t.cleanups) - 1; index >= 0; index-- {
		t.cleanups[index]()
	}
}

// Errorf fails the test.
func (t *T) Errorf(format string, arguments ...interface{}) {
	t.fail(fmt.Sprintf(format, arguments...))
}

// Error fails the test.
func (t *T) Error(arguments ...interface{}) { t.fail(fmt.Sprintln(arguments...)) }

// Fatalf fails the test.
func (t *T) Fatalf(format string, arguments ...interface{}) {
	t.fail(fmt.Sprintf(format, arguments...))
}

// Fatal fails the test.
func (t *T) Fatal(arguments ...interface{}) { t.fail(fmt.Sprintln(arguments...)) }

// Fail fails the test.
func (t *T) Fail() { t.fail("Fail was called") }

// FailNow fails the test.
func (t *T) FailNow() { t.fail("FailNow was called") }

// Failed is never true while a test runs.
func (t *T) Failed() bool { return false }

// Helper changes nothing here.
func (t *T) Helper() {}

// Parallel changes nothing here.
func (t *T) Parallel() {}

// Name is the test's.
func (t *T) Name() string { return t.name }

// Log writes to stderr.
func (t *T) Log(arguments ...interface{}) { fmt.Fprintln(os.Stderr, arguments...) }

// Logf writes to stderr.
func (t *T) Logf(format string, arguments ...interface{}) {
	fmt.Fprintf(os.Stderr, format+"\n", arguments...)
}

// Cleanup runs a function after the test.
func (t *T) Cleanup(function func()) { t.cleanups = append(t.cleanups, function) }

// SkipNow ends the test; it counts as passed.
func (t *T) SkipNow() { runtime.Goexit() }

// Skip ends the test; it counts as passed.
func (t *T) Skip(...interface{}) { t.SkipNow() }

// Run runs a test within this one.
func (t *T) Run(name string, test func(*T)) bool {
	Run(t.name+"/"+name, test, t.failed)
	return true
}

// fail keeps of a message of testify what does not name our own files, on one line.
func (t *T) fail(message string) {
	kept := []string{}
	tracing := false
	for _, line := range strings.Split(message, "\n") {
		words := strings.TrimSpace(line)
		labelled := strings.Contains(line, ":") && strings.HasPrefix(line, "\t") && !strings.HasPrefix(line, "\t ")
		if labelled {
			tracing = strings.HasPrefix(words, "Error Trace:")
		}
		if words == "Diff:" {
			break
		}
		if words != "" && !tracing && !strings.HasPrefix(words, "Test:") {
			kept = append(kept, strings.Join(strings.Fields(strings.TrimPrefix(words, "Error:")), " "))
		}
	}
	t.failed(t.name + ": " + strings.Join(kept, " "))
}
