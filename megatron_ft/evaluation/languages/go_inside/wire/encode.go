package wire

import (
	"encoding/binary"
	"math"
	"reflect"
)

// depthLimit bounds how deep values may be nested; a value that contains itself is cut off here.
const depthLimit = 1000

// Kinds of a type behind an interface{} beside those of reflect.
const (
	kindNil    = 0
	kindError  = 254
	kindOpaque = 255
)

var (
	anyType   = reflect.TypeOf((*interface{})(nil)).Elem()
	errorType = reflect.TypeOf((*error)(nil)).Elem()
)

// NotCarried says why a value cannot travel; it is what Encode panics with.
type NotCarried struct {
	Type      string
	OfAnyType bool // it is the value that cannot; Type says what is wrong with it
}

func (problem NotCarried) Error() string {
	if problem.OfAnyType {
		return "a value " + problem.Type + ", which is not carried"
	}
	return "a value of type " + problem.Type + ", which is not carried"
}

// Encode appends a value; its static type is known to the reader. It panics with NotCarried for one that cannot travel.
func Encode(data []byte, value reflect.Value) []byte { return encode(data, value, 0) }

func encode(data []byte, value reflect.Value, depth int) []byte {
	if depth > depthLimit {
		panic(NotCarried{"that is nested too deep", true})
	}
	switch value.Kind() {
	case reflect.Bool:
		return append(data, flag(value.Bool()))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return number(data, uint64(value.Int()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return number(data, value.Uint())
	case reflect.Float32, reflect.Float64:
		return number(data, math.Float64bits(value.Float()))
	case reflect.Complex64, reflect.Complex128:
		data = number(data, math.Float64bits(real(value.Complex())))
		return number(data, math.Float64bits(imag(value.Complex())))
	case reflect.String:
		return text(data, value.String())
	case reflect.Array, reflect.Slice:
		return encodeItems(data, value, depth)
	case reflect.Map:
		return encodeMap(data, value, depth)
	case reflect.Struct:
		data = append(data, 1) // so that nothing takes no bytes at all, and a count can be checked
		for index := 0; index < value.NumField(); index++ {
			data = encode(data, value.Field(index), depth+1)
		}
		return data
	case reflect.Pointer:
		if data = append(data, flag(!value.IsNil())); value.IsNil() {
			return data
		}
		return encode(data, value.Elem(), depth+1)
	case reflect.Interface:
		return encodeInterface(data, value, depth)
	}
	panic(NotCarried{value.Type().String(), false})
}

func flag(holds bool) byte {
	if holds {
		return 1
	}
	return 0
}

func number(data []byte, bits uint64) []byte { return binary.LittleEndian.AppendUint64(data, bits) }

func text(data []byte, value string) []byte {
	return append(binary.LittleEndian.AppendUint32(data, uint32(len(value))), value...)
}

func encodeItems(data []byte, value reflect.Value, depth int) []byte {
	if value.Kind() == reflect.Slice {
		data = append(data, flag(!value.IsNil())) // testify tells nil from empty
		data = binary.LittleEndian.AppendUint32(data, uint32(value.Len()))
		if value.Type().Elem().Kind() == reflect.Uint8 {
			return append(data, value.Bytes()...)
		}
	}
	for index := 0; index < value.Len(); index++ {
		data = encode(data, value.Index(index), depth+1)
	}
	return data
}

func encodeMap(data []byte, value reflect.Value, depth int) []byte {
	data = append(data, flag(!value.IsNil()))
	data = binary.LittleEndian.AppendUint32(data, uint32(value.Len()))
	for entries := value.MapRange(); entries.Next(); {
		data = encode(data, entries.Key(), depth+1)
		data = encode(data, entries.Value(), depth+1)
	}
	return data
}

func encodeInterface(data []byte, value reflect.Value, depth int) []byte {
	if value.IsNil() {
		return append(data, kindNil)
	}
	held := value.Elem()
	if problem, is := errorIn(held); is {
		return text(append(data, kindError), problem)
	}
	described, known := describe(nil, held.Type(), 0)
	if !known {
		return text(append(data, kindOpaque), held.Type().String())
	}
	return encode(append(data, described...), held, depth+1)
}

// errorIn gives the text of an error; a value's own Error method is not called where its type is carried as it is.
func errorIn(held reflect.Value) (string, bool) {
	if !held.CanInterface() || !held.Type().Implements(errorType) {
		return "", false
	}
	return held.Interface().(error).Error(), true
}

// describe appends a type made of the predeclared ones; false for any other.
func describe(data []byte, kind reflect.Type, depth int) ([]byte, bool) {
	if depth > 50 {
		return data, false
	}
	if kind == anyType || kind == errorType {
		return append(data, byte(reflect.Interface), flag(kind == errorType)), true
	}
	if basic, is := basicTypes[kind.Kind()]; is {
		return append(data, byte(kind.Kind())), kind == basic
	}
	if kind.Name() != "" {
		return data, false
	}
	data = append(data, byte(kind.Kind()))
	switch kind.Kind() {
	case reflect.Slice, reflect.Pointer:
		return describe(data, kind.Elem(), depth+1)
	case reflect.Array:
		return describe(number(data, uint64(kind.Len())), kind.Elem(), depth+1)
	case reflect.Map:
		data, known := describe(data, kind.Key(), depth+1)
		if !known {
			return data, false
		}
		return describe(data, kind.Elem(), depth+1)
	}
	return data, false
}

var basicTypes = map[reflect.Kind]reflect.Type{}

func init() {
	for _, value := range []interface{}{false, 0, int8(0), int16(0), int32(0), int64(0), uint(0), uint8(0), uint16(0),
		uint32(0), uint64(0), float32(0), 0.0, complex64(0), complex128(0), ""} {
		basicTypes[reflect.TypeOf(value).Kind()] = reflect.TypeOf(value)
	}
}
