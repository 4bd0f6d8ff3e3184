// Command bench-informer is client-go in the informer benchmark: a SharedIndexInformer of pods on one
// encoding, which says when it has synced and what it had seen when the last event was handled. As
// "encode" it turns watch events from JSON into the protobuf frames of a watch.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 1 && arguments[0] == "encode":
		return encode(os.Stdin, os.Stdout)
	case len(arguments) == 3:
		return follow(arguments[0], arguments[1], arguments[2])
	}
	return fmt.Errorf("usage: bench-informer encode | json|protobuf|metadata SERVER LAST_RESOURCE_VERSION")
}
