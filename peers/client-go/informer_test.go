package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

func configMap(name, rv string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"lab","name":%q,"resourceVersion":%q}}`, name, rv)
}

func event(kind, object string) string {
	return fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object)
}

const initialEventsEnd = `{"type":"BOOKMARK","object":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"11","annotations":{"k8s.io/initial-events-end":"true"}}}}`

// answer is what the server does with one request; it returns to end the stream.
type answer func(response http.ResponseWriter, request *http.Request)

func stream200(events ...string) answer {
	return func(response http.ResponseWriter, request *http.Request) {
		response.Header().Set("Content-Type", "application/json")
		for _, line := range events {
			fmt.Fprintln(response, line)
			response.(http.Flusher).Flush()
		}
	}
}

func then(first answer, next answer) answer {
	return func(response http.ResponseWriter, request *http.Request) {
		first(response, request)
		next(response, request)
	}
}

func reset(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func hold(_ http.ResponseWriter, request *http.Request) { <-request.Context().Done() }

func linger(http.ResponseWriter, *http.Request) { time.Sleep(1100 * time.Millisecond) }

func status(code int, text string) answer {
	return func(response http.ResponseWriter, _ *http.Request) {
		response.Header().Set("Content-Type", "application/json")
		response.WriteHeader(code)
		fmt.Fprint(response, text)
	}
}

// play runs the informer against a server that gives the answers in turn, until the informer has said
// `until` for the given number of times, and returns what it said and what it asked.
func play(t *testing.T, until string, times int, answers ...answer) (lines []fields, queries []url.Values) {
	t.Helper()
	requests := make(chan url.Values, 100)
	turn := make(chan answer, len(answers))
	for _, next := range answers {
		turn <- next
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(response http.ResponseWriter, request *http.Request) {
		requests <- request.URL.Query()
		select {
		case next := <-turn:
			next(response, request)
		default:
			then(stream200(""), hold)(response, request)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, options{kubeconfig: kubeconfig(t, server), namespace: "lab", resource: "configmaps", fieldSelector: "metadata.name=canary"}, newEventLog(writer))
		writer.Close()
	}()
	decoder := json.NewDecoder(reader)
	for {
		var line fields
		if err := decoder.Decode(&line); err != nil {
			break
		}
		if line["event"] == "alive" {
			continue
		}
		lines = append(lines, line)
		if line["event"] == until {
			times--
		}
		if times == 0 {
			cancel()
		}
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if times > 0 {
		t.Fatalf("never said %q often enough: %v", until, lines)
	}
	close(requests)
	for query := range requests {
		queries = append(queries, query)
	}
	return lines, queries
}

func kubeconfig(t *testing.T, server *httptest.Server) string {
	folder := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"lab",
"clusters":[{"name":"lab","cluster":{"server":%q,"certificate-authority":"ca.pem","tls-server-name":"example.com"}}],
"contexts":[{"name":"lab","context":{"cluster":"lab","user":"lab"}}],
"users":[{"name":"lab","user":{"token":"test"}}]}`, server.URL)
	path := filepath.Join(folder, "kubeconfig")
	for name, content := range map[string][]byte{"ca.pem": ca, "kubeconfig": []byte(text)} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// said gives the lines as "event field field ...", with the fields that are there, in this order.
func said(lines []fields) []string {
	var texts []string
	for _, line := range lines {
		text := line["event"].(string)
		for _, name := range []string{"type", "name", "rv", "items", "reason", "source", "by", "send_initial_events"} {
			if value, ok := line[name]; ok && value != "" {
				text += " " + fmt.Sprint(value)
			}
		}
		texts = append(texts, text)
	}
	return texts
}

func expect(t *testing.T, lines []fields, wanted ...string) {
	t.Helper()
	if got := said(lines); !slices.Equal(got, wanted) {
		t.Errorf("got:\n  %s\nwanted:\n  %s", strings.Join(got, "\n  "), strings.Join(wanted, "\n  "))
	}
}

func TestACleanEndCostsARewatchFromTheLastVersion(t *testing.T) {
	lines, queries := play(t, "watch", 2,
		then(stream200(event("ADDED", configMap("canary", "10")), initialEventsEnd, event("MODIFIED", configMap("canary", "12"))), linger))
	expect(t, lines,
		"ready",
		"watch true",
		"object ADDED canary 10 list",
		"list 11 1 initial",
		"object MODIFIED canary 12 watch",
		"ended server-closed",
		"watch 12 false",
	)
	first, second := queries[0], queries[1]
	if first.Get("sendInitialEvents") != "true" || first.Get("resourceVersionMatch") != "NotOlderThan" {
		t.Errorf("WatchList is client-go's default, asked %v", first)
	}
	if second.Get("resourceVersion") != "12" || second.Has("sendInitialEvents") {
		t.Errorf("a re-watch goes on from 12, asked %v", second)
	}
	for _, query := range queries {
		timeout, err := strconv.Atoi(query.Get("timeoutSeconds"))
		if err != nil || timeout < 300 || timeout > 600 {
			t.Errorf("client-go asks for 5 to 10 minutes, got %q", query.Get("timeoutSeconds"))
		}
		if query.Get("fieldSelector") != "metadata.name=canary" || query.Get("allowWatchBookmarks") != "true" {
			t.Errorf("asked %v", query)
		}
	}
}

func TestAResetCostsARelist(t *testing.T) {
	lines, _ := play(t, "list", 2,
		then(stream200(initialEventsEnd, event("ADDED", configMap("canary", "12"))), then(linger, reset)),
		then(stream200(event("ADDED", configMap("canary", "12")), initialEventsEnd), hold))
	expect(t, lines,
		"ready",
		"watch true",
		"list 11 0 initial",
		"object ADDED canary 12 watch",
		"ended stream-reset",
		"watch 12 true",
		"object ADDED canary 12 list",
		"list 11 1 relist",
	)
}

func TestAnExpiredVersionIsAnErrorEvent(t *testing.T) {
	expired := `{"type":"ERROR","object":{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"Expired","code":410,"message":"too old resource version"}}`
	lines, _ := play(t, "ended", 1, then(stream200(initialEventsEnd, expired), hold))
	expect(t, lines, "ready", "watch true", "list 11 0 initial", "ended error-event")
	if detail := lines[3]["detail"]; detail != "410 Expired: too old resource version" {
		t.Errorf("detail is %q", detail)
	}
}

func TestAServerWithoutWatchListIsListed(t *testing.T) {
	invalid := `{"apiVersion":"v1","kind":"Status","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents: Forbidden"}`
	list := `{"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":"20"},"items":[` + configMap("canary", "15") + `]}`
	lines, _ := play(t, "watch", 1, status(422, invalid), status(200, list), then(stream200(""), hold))
	if detail := lines[1]["detail"]; detail != "422 Invalid: sendInitialEvents: Forbidden" {
		t.Errorf("detail is %q", detail)
	}
	expect(t, lines, "ready", "ended refused", "list 20 1 initial", "object ADDED canary 15 list", "watch 20 false")
}

func TestEndings(t *testing.T) {
	for _, test := range []struct {
		err error
		by  string
	}{
		{io.EOF, "server-closed"},
		{http2.StreamError{StreamID: 1, Code: http2.ErrCodeInternal}, "stream-reset"},
		{io.ErrUnexpectedEOF, "connection-lost"},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, "connection-lost"},
		{errors.New("http2: client connection lost"), "connection-lost"},
		{context.DeadlineExceeded, "deadline"},
		{nil, "deadline"},
	} {
		if by, _ := endedBy(test.err); by != test.by {
			t.Errorf("%v: %s, wanted %s", test.err, by, test.by)
		}
	}
	if by, _ := refusedBy(&url.Error{Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}); by != "refused" {
		t.Error("a refused connection is refused")
	}
	if by, _ := refusedBy(&url.Error{Err: io.EOF}); by != "connection-lost" {
		t.Error("a connection that ended before the answer is lost")
	}
}

func TestGoroutinesAreSeenOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pprof.sock")
	server, err := servePprof(path)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", path) }}}
	response, err := client.Get("http://pprof/debug/pprof/goroutine?debug=2")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if !strings.Contains(string(text), "TestGoroutinesAreSeenOnAUnixSocket") {
		t.Errorf("no goroutine dump: %.200s", text)
	}
}

func TestResourcesAreWrittenAsKubectlWritesThem(t *testing.T) {
	for text, wanted := range map[string]string{
		"configmaps":          "/v1, Resource=configmaps",
		"deployments.v1.apps": "apps/v1, Resource=deployments",
	} {
		if resource, err := parseResource(text); err != nil || resource.String() != wanted {
			t.Errorf("%s: %v, %v", text, resource, err)
		}
	}
	for _, text := range []string{"", "deployments.apps"} {
		if _, err := parseResource(text); err == nil {
			t.Errorf("%q must be refused", text)
		}
	}
}
