// Package httptest goes with the stand-in for "net/http".
package httptest

import "bytes"

// ResponseRecorder has what testify reads of it.
type ResponseRecorder struct {
	Code int
	Body *bytes.Buffer
}

// WriteHeader does nothing.
func (recorder *ResponseRecorder) WriteHeader(status int) {}

// NewRecorder makes one.
func NewRecorder() *ResponseRecorder { return &ResponseRecorder{Body: new(bytes.Buffer)} }
