package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
)

type jsonEvent struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// encode reads one JSON watch event a line and writes each as a kube-apiserver does on
// application/vnd.kubernetes.protobuf;stream=watch: a big-endian 32-bit length, then the WatchEvent.
func encode(in io.Reader, out io.Writer) error {
	objects := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	frames := protobuf.LengthDelimitedFramer.NewFrameWriter(out)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event jsonEvent
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return err
		}
		object, err := objectOf(event.Object)
		if err != nil {
			return err
		}
		raw, err := runtime.Encode(objects, object)
		if err != nil {
			return err
		}
		frame, err := (&metav1.WatchEvent{Type: event.Type, Object: runtime.RawExtension{Raw: raw}}).Marshal()
		if err != nil {
			return err
		}
		if _, err := frames.Write(frame); err != nil {
			return err
		}
	}
	return lines.Err()
}

func objectOf(raw []byte) (runtime.Object, error) {
	var kind metav1.TypeMeta
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, err
	}
	var object runtime.Object
	switch kind.Kind {
	case "Pod":
		object = &corev1.Pod{}
	case "PartialObjectMetadata":
		object = &metav1.PartialObjectMetadata{}
	default:
		return nil, fmt.Errorf("kind %q: expected Pod or PartialObjectMetadata", kind.Kind)
	}
	return object, json.Unmarshal(raw, object)
}
