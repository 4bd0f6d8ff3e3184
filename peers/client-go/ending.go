package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"syscall"

	"golang.org/x/net/http2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stream is what the transport learns of one watch request: how the body of its answer ended.
// client-go reports a clean end and a lost connection alike, so it has to be seen below client-go.
type stream struct {
	mutex sync.Mutex
	err   error
}

type streamKey struct{}

func (s *stream) noteEnd(err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *stream) end() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.err
}

type bodyTracker struct{ next http.RoundTripper }

func trackBodies(next http.RoundTripper) http.RoundTripper {
	return &bodyTracker{next}
}

func (t *bodyTracker) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	if watched, ok := request.Context().Value(streamKey{}).(*stream); ok && err == nil {
		response.Body = &trackedBody{response.Body, watched}
	}
	return response, err
}

// WrappedRoundTripper lets apimachinery find the transport below.
func (t *bodyTracker) WrappedRoundTripper() http.RoundTripper { return t.next }

type trackedBody struct {
	io.ReadCloser
	stream *stream
}

func (b *trackedBody) Read(into []byte) (int, error) {
	n, err := b.ReadCloser.Read(into)
	if err != nil {
		b.stream.noteEnd(err)
	}
	return n, err
}

// endedBy names the party that ended a stream whose body ended with err.
func endedBy(err error) (by, detail string) {
	var reset http2.StreamError
	switch {
	case err == nil:
		return "deadline", "the client closed the watch"
	case errors.Is(err, io.EOF):
		return "server-closed", "end of stream"
	case errors.As(err, &reset):
		return "stream-reset", fmt.Sprint(reset.Code)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "deadline", err.Error()
	default:
		return "connection-lost", err.Error()
	}
}

// refusedBy names the party in an error of the request itself, before any answer of 200.
func refusedBy(err error) (by, detail string) {
	var answered apierrors.APIStatus
	switch {
	case errors.As(err, &answered):
		return "refused", statusText(answered.Status())
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused", err.Error()
	}
	if by, detail := endedBy(err); by != "server-closed" {
		return by, detail
	}
	return "connection-lost", err.Error()
}

func statusText(status metav1.Status) string {
	return fmt.Sprintf("%d %s: %s", status.Code, status.Reason, status.Message)
}
