package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"unsafe"
)

// growth bounds the memory that a value may take for each byte that tells it; the greediest honest one takes 24.
const growth = 64

// Opaque is a value of a type that is not carried.
type Opaque struct {
	Type  string
	never func() // functions are never deeply equal, so that two of these are not either
}

func (value *Opaque) String() string {
	return fmt.Sprintf("<%s, not carried to the tests>", value.Type)
}

// Reader takes values from a message.
type Reader struct{ data []byte }

// NewReader reads the values of one message.
func NewReader(data []byte) *Reader { return &Reader{data} }

// Byte takes one byte.
func (reader *Reader) Byte() byte { return reader.take(1)[0] }

// Text takes a string.
func (reader *Reader) Text() string { return string(reader.take(reader.count())) }

// Rest takes all that is left.
func (reader *Reader) Rest() []byte { return reader.take(len(reader.data)) }

// Catch turns a panic of a reader's methods into an error; it is to be deferred.
func Catch(err *error) {
	if problem := recover(); problem != nil {
		*err = errors.New("an answer that is no value of the declared types")
	}
}

// Decode reads what Encode wrote into a settable value. It panics for anything else.
func (reader *Reader) Decode(value reflect.Value) { reader.decode(value, 0) }

func (reader *Reader) take(count int) []byte {
	if count > len(reader.data) {
		panic("no such bytes")
	}
	taken := reader.data[:count]
	reader.data = reader.data[count:]
	return taken
}

func (reader *Reader) number() uint64 { return binary.LittleEndian.Uint64(reader.take(8)) }

func (reader *Reader) count() int { return int(binary.LittleEndian.Uint32(reader.take(4))) }

// fits checks a size, before it is allocated, against the bytes that are left to fill it.
func (reader *Reader) fits(count int, size uintptr) {
	if count < 0 || uint64(count) > uint64(len(reader.data)) ||
		size > 0 && uint64(count) > growth*uint64(len(reader.data)+1)/uint64(size) {
		panic("more items than bytes")
	}
}

func (reader *Reader) decode(value reflect.Value, depth int) {
	if depth > 2*depthLimit {
		panic("nested too deep")
	}
	switch value.Kind() {
	case reflect.Bool:
		value.SetBool(reader.Byte() == 1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		value.SetInt(int64(reader.number()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		value.SetUint(reader.number())
	case reflect.Float32, reflect.Float64:
		value.SetFloat(math.Float64frombits(reader.number()))
	case reflect.Complex64, reflect.Complex128:
		real := math.Float64frombits(reader.number())
		value.SetComplex(complex(real, math.Float64frombits(reader.number())))
	case reflect.String:
		value.SetString(reader.Text())
	case reflect.Array:
		for index := 0; index < value.Len(); index++ {
			reader.decode(value.Index(index), depth+1)
		}
	case reflect.Slice:
		reader.decodeSlice(value, depth)
	case reflect.Map:
		reader.decodeMap(value, depth)
	case reflect.Struct:
		reader.decodeStruct(value, depth)
	case reflect.Pointer:
		if reader.Byte() == 1 {
			reader.fits(1, value.Type().Elem().Size())
			value.Set(reflect.New(value.Type().Elem()))
			reader.decode(value.Elem(), depth+1)
		}
	case reflect.Interface:
		reader.decodeInterface(value, depth)
	default:
		panic("no such kind")
	}
}

func (reader *Reader) decodeSlice(value reflect.Value, depth int) {
	present, count := reader.Byte() == 1, reader.count()
	if !present {
		return
	}
	reader.fits(count, value.Type().Elem().Size())
	value.Set(reflect.MakeSlice(value.Type(), count, count))
	if value.Type().Elem().Kind() == reflect.Uint8 {
		copy(value.Bytes(), reader.take(count))
		return
	}
	for index := 0; index < count; index++ {
		reader.decode(value.Index(index), depth+1)
	}
}

func (reader *Reader) decodeMap(value reflect.Value, depth int) {
	present, count := reader.Byte() == 1, reader.count()
	if !present {
		return
	}
	kind := value.Type()
	reader.fits(count, kind.Key().Size()+kind.Elem().Size())
	value.Set(reflect.MakeMap(kind))
	for index := 0; index < count; index++ {
		key, item := reflect.New(kind.Key()).Elem(), reflect.New(kind.Elem()).Elem()
		reader.decode(key, depth+1)
		reader.decode(item, depth+1)
		value.SetMapIndex(key, item)
	}
}

func (reader *Reader) decodeStruct(value reflect.Value, depth int) {
	reader.Byte()
	for index := 0; index < value.NumField(); index++ {
		field := value.Field(index)
		reader.decode(reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem(), depth+1)
	}
}

func (reader *Reader) decodeInterface(value reflect.Value, depth int) {
	kind := reader.data[0]
	switch kind {
	case kindNil:
		reader.Byte()
	case kindError:
		reader.Byte()
		value.Set(reflect.ValueOf(errors.New(reader.Text())))
	case kindOpaque:
		reader.Byte()
		value.Set(reflect.ValueOf(&Opaque{reader.Text(), func() {}}))
	default:
		held := reflect.New(reader.describedType(0)).Elem()
		reader.decode(held, depth+1)
		value.Set(held)
	}
}

func (reader *Reader) describedType(depth int) reflect.Type {
	if depth > 50 {
		panic("nested too deep")
	}
	kind := reflect.Kind(reader.Byte())
	if basic, is := basicTypes[kind]; is {
		return basic
	}
	switch kind {
	case reflect.Interface:
		if reader.Byte() == 1 {
			return errorType
		}
		return anyType
	case reflect.Slice:
		return reflect.SliceOf(reader.describedType(depth + 1))
	case reflect.Pointer:
		return reflect.PointerTo(reader.describedType(depth + 1))
	case reflect.Array:
		count := reader.number()
		item := reader.describedType(depth + 1)
		if count > MessageBytes {
			panic("an array longer than a message")
		}
		reader.fits(int(count), item.Size())
		return reflect.ArrayOf(int(count), item)
	case reflect.Map:
		key := reader.describedType(depth + 1)
		return reflect.MapOf(key, reader.describedType(depth+1))
	}
	panic("no such kind")
}
