package main

import (
	"encoding/json"
	"io"
	"math"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"
)

type fields map[string]any

// eventLog writes one JSON object per line. "t" is CLOCK_MONOTONIC in seconds, the clock that all
// processes of a lab share; Go's own monotonic time counts from the start of the process.
type eventLog struct {
	mutex sync.Mutex
	out   io.Writer
}

func newEventLog(out io.Writer) *eventLog {
	return &eventLog{out: out}
}

func (l *eventLog) emit(event string, more fields) {
	line := fields{"event": event}
	for name, value := range more {
		line[name] = value
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	line["t"] = math.Round(monotonicSeconds()*1e6) / 1e6
	text, err := json.Marshal(line)
	if err != nil {
		panic(err) // the fields are ours: strings, numbers and nil
	}
	l.out.Write(append(text, '\n'))
}

func monotonicSeconds() float64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic(err) // clock_gettime(2) knows this clock since Linux 2.6
	}
	return float64(now.Sec) + float64(now.Nsec)/1e9
}

// clientGoVersion is the version of client-go in this binary, e.g. "client-go v0.36.6".
func clientGoVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			if module.Path == "k8s.io/client-go" {
				return "client-go " + module.Version
			}
		}
	}
	return "client-go"
}
