// Package ask is the tests' side: it calls the tested function over the pipes and tells the evaluator what came of it.
//
// What it writes to the third descriptor is described in megatron_ft/evaluation/case.py.
package ask

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"megatron_ft/testing"
	"megatron_ft/wire"
)

// Test is one function of the tests.
type Test struct {
	Name string
	Run  func(*testing.T)
}

var (
	channel wire.Channel
	report  *os.File
	lines   []string
	brought bool // the program has answered, so that a value of the tests may hold one of its own
)

// Run runs the tests in their order. Each line of their text serves for the reason when one fails.
func Run(text string, tests ...Test) {
	debug.SetMaxStack(256 << 20)
	ends := make([]int, 3)
	for index := range ends {
		ends[index], _ = strconv.Atoi(os.Args[len(os.Args)-3+index])
	}
	channel = wire.Channel{In: ends[0], Out: ends[1]}
	report = os.NewFile(uintptr(ends[2]), "report")
	os.Args = os.Args[:1]
	token, _ := io.ReadAll(os.Stdin)
	tell("ready\n")
	if _, err := channel.Receive(); err != nil {
		tell("not started\n")
		os.Exit(1)
	}
	lines = strings.Split(text, "\n")
	for _, test := range tests {
		testing.Run(test.Name, test.Run, func(reason string) { end("failed", reason+place()) })
	}
	tell(string(token))
	os.Exit(0)
}

// Call calls the tested function; arguments and results are pointers to the declared parameters and results.
func Call(name string, arguments []interface{}, results []interface{}) {
	data := encoded(name, arguments)
	if len(data) > wire.MessageBytes {
		unsent(name, wire.NotCarried{Type: "of more bytes than a message may have", OfAnyType: true})
	}
	if channel.Send(data) != nil {
		end("ended", "")
	}
	message, err := channel.Receive()
	brought = true
	if err == wire.ErrEnded {
		end("ended", "")
	} else if err == nil {
		err = accept(name, message, arguments, results)
	}
	if err != nil {
		end("refused", "the program sent "+err.Error()+place())
	}
}

func encoded(name string, arguments []interface{}) (data []byte) {
	defer func() {
		if problem := recover(); problem != nil {
			unsent(name, problem)
		}
	}()
	for _, argument := range arguments {
		data = wire.Encode(data, reflect.ValueOf(argument).Elem())
	}
	return data
}

// unsent reports arguments that cannot be sent. Their types are the tests' own fault; their size and depth are so only while
// they hold nothing of the program, which decides what it returns and must not stop the evaluator with it.
func unsent(name string, problem interface{}) {
	kind := "broken"
	if uncarried, is := problem.(wire.NotCarried); is && uncarried.OfAnyType && brought {
		kind = "failed"
	}
	end(kind, fmt.Sprint("its tests call ", name, " with ", problem)+place())
}

// Panicked is what a test meets where the tested function panicked.
type Panicked struct{ Name, Text string }

func (problem Panicked) Error() string { return problem.Name + " panicked: " + problem.Text }

func accept(name string, message []byte, arguments, results []interface{}) error {
	problem, err := take(name, message, arguments, results)
	if err == nil && problem != nil {
		panic(*problem)
	}
	return err
}

func take(name string, message []byte, arguments, results []interface{}) (problem *Panicked, err error) {
	defer wire.Catch(&err)
	reader := wire.NewReader(message)
	if reader.Byte() != 1 {
		panicked := reader.Byte() == 1
		text := strings.ToValidUTF8(string(reader.Rest()), "?")
		if !panicked {
			end("failed", name+" gave "+text+place())
		}
		return &Panicked{name, text}, nil
	}
	for _, result := range results {
		reader.Decode(reflect.ValueOf(result).Elem())
	}
	for _, argument := range arguments {
		if reader.Byte() == 1 {
			held := reflect.ValueOf(argument).Elem()
			now := reflect.New(held.Type()).Elem()
			reader.Decode(now)
			bringBack(held, now)
		}
	}
	return nil, nil
}

// bringBack puts into slices, maps and what pointers point to what the call left in the program's copy of them.
func bringBack(held, now reflect.Value) {
	switch held.Kind() {
	case reflect.Slice:
		reflect.Copy(held, now)
	case reflect.Map:
		if held.IsNil() || now.IsNil() {
			return
		}
		for _, key := range held.MapKeys() {
			held.SetMapIndex(key, reflect.Value{})
		}
		for entries := now.MapRange(); entries.Next(); {
			held.SetMapIndex(entries.Key(), entries.Value())
		}
	case reflect.Pointer:
		if !held.IsNil() && !now.IsNil() {
			held.Elem().Set(now.Elem())
		}
	case reflect.Interface:
		if !held.IsNil() && !now.IsNil() && held.Elem().Type() == now.Elem().Type() {
			bringBack(held.Elem(), now.Elem())
		}
	case reflect.Array:
		for index := 0; index < held.Len(); index++ {
			bringBack(held.Index(index), now.Index(index))
		}
	}
}

// place says at which line of the tests this happened.
func place() string {
	callers := make([]uintptr, 200)
	frames := runtime.CallersFrames(callers[:runtime.Callers(1, callers)])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.File, "tests.go") && frame.Line >= 1 && frame.Line <= len(lines) {
			return fmt.Sprintf(", at test line %d: %s", frame.Line, strings.TrimSpace(lines[frame.Line-1]))
		}
		if !more {
			return ""
		}
	}
}

func tell(text string) { _, _ = report.WriteString(text) }

// end reports why the tests are over; a failed test can no longer pass, so the rest of them is not run.
func end(kind, reason string) {
	tell(kind + "\n" + reason)
	os.Exit(1)
}
