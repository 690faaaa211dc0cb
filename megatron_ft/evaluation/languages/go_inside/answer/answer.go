// Package answer is the program's side: it calls the tested function for the tests in the other box.
//
// This process holds nothing worth reading: no test, no expected value, no token. The program may take over every line
// below; all that it gains is to answer calls, which is what it is there for.
package answer

import (
	"bytes"
	"os"
	"reflect"
	"strconv"

	"megatron_ft/wire"
)

var (
	channel  wire.Channel
	function reflect.Value
)

// init says that the box stands. The program's package imports this one, so none of its own code has run yet.
func init() {
	count := len(os.Args)
	if count < 3 {
		os.Exit(2)
	}
	channel.In, _ = strconv.Atoi(os.Args[count-2])
	channel.Out, _ = strconv.Atoi(os.Args[count-1])
	os.Args = os.Args[:1]
	if channel.Send([]byte("ready")) != nil {
		os.Exit(0)
	}
}

// Function is told the function that is called.
func Function(tested interface{}) { function = reflect.ValueOf(tested) }

// Serve answers calls until the tests are over.
func Serve() {
	for {
		message, err := channel.Receive()
		if err != nil || channel.Send(reply(message)) != nil {
			os.Exit(0)
		}
	}
}

// reply calls the function: 1, its results, and for each argument 0 or 1 and what the call made of it; else 0, whether
// the function panicked, and a text.
func reply(message []byte) (data []byte) {
	called := false
	defer func() {
		if problem := recover(); problem != nil {
			data = failure(problem, !called)
		}
	}()
	reader, kind := wire.NewReader(message), function.Type()
	arguments := make([]reflect.Value, kind.NumIn())
	before := make([][]byte, len(arguments))
	for index := range arguments {
		arguments[index] = reflect.New(kind.In(index)).Elem()
		reader.Decode(arguments[index])
		before[index] = wire.Encode(nil, arguments[index])
	}
	results := function.Call(arguments)
	called = true
	data = append(data, 1)
	for _, result := range results {
		data = wire.Encode(data, result)
	}
	for index, argument := range arguments {
		data = changed(data, before[index], argument)
	}
	return data
}

// changed appends an argument if a call left something else in it; one that can no longer travel counts as unchanged.
func changed(data, before []byte, argument reflect.Value) (appended []byte) {
	defer func() {
		if recover() != nil {
			appended = append(data, 0)
		}
	}()
	now := wire.Encode(nil, argument)
	if bytes.Equal(before, now) {
		return append(data, 0)
	}
	return append(append(data, 1), now...)
}

func failure(problem interface{}, panicked bool) []byte {
	said := "a value of type " + reflect.TypeOf(problem).String()
	func() {
		defer func() { _ = recover() }() // an Error method of the program's own may panic as well
		switch problem := problem.(type) {
		case error:
			said = problem.Error()
		case string:
			said = problem
		}
	}()
	if len(said) > 2000 {
		said = said[:2000]
	}
	kind := byte(0)
	if panicked {
		kind = 1
	}
	return append([]byte{0, kind}, said...)
}
