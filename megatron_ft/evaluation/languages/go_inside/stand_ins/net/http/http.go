// Package http is what testify gets for "net/http", with which linking the tests would take twice as long.
//
// Tests that check handlers of the real one do not compile against it, so that none is judged wrongly.
package http

import (
	"errors"
	"io"
	"net/url"
)

// The statuses that testify compares with.
const (
	StatusOK                = 200
	StatusPartialContent    = 206
	StatusMultipleChoices   = 300
	StatusTemporaryRedirect = 307
	StatusBadRequest        = 400
)

// NoBody is given to NewRequest.
var NoBody io.Reader

// Request has what testify sets of it.
type Request struct{ URL *url.URL }

// ResponseWriter has what names it.
type ResponseWriter interface{ WriteHeader(status int) }

// HandlerFunc is another type than the real one.
type HandlerFunc func(ResponseWriter, *Request)

// ServeHTTP calls it.
func (handler HandlerFunc) ServeHTTP(writer ResponseWriter, request *Request) { handler(writer, request) }

// NewRequest gives none.
func NewRequest(method, address string, body io.Reader) (*Request, error) {
	return nil, errors.New("tests of HTTP handlers are not carried")
}
