package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const protobufType = "application/vnd.kubernetes.protobuf"

// follow runs an informer of mode "json", "protobuf" or "metadata" until an update with the resource
// version last was handled, and then says what it saw.
func follow(mode, server, last string) error {
	informer, err := newInformer(mode, server)
	if err != nil {
		return err
	}
	calls := 0
	done := make(chan time.Time, 1)
	_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, new interface{}) {
			calls++
			if new.(metav1.Object).GetResourceVersion() == last {
				done <- time.Now()
			}
		},
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("the cache did not sync")
	}
	fmt.Println("synced")
	if last == "memory" {
		return waitAndCollect()
	}
	at := <-done
	return report(informer, calls, last, at)
}

// waitAndCollect lets its starter measure the process twice: as it stands, and after a collection that
// gives all free memory back. Each step waits for a line on standard input.
func waitAndCollect() error {
	var line string
	fmt.Scanln(&line)
	runtime.GC()
	debug.FreeOSMemory()
	fmt.Println("collected")
	fmt.Scanln(&line)
	return nil
}

func report(informer cache.SharedIndexInformer, calls int, last string, at time.Time) error {
	var sum uint64
	for _, item := range informer.GetStore().List() {
		object := item.(metav1.Object)
		sum += uint64(crc32.ChecksumIEEE([]byte(object.GetName() + " " + object.GetResourceVersion())))
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"done_unix_s": float64(at.UnixNano()) / 1e9,
		"events":      calls,
		"calls":       calls,
		"last":        last,
		"checksum":    sum,
	})
}

func newInformer(mode, server string) (cache.SharedIndexInformer, error) {
	config := &rest.Config{Host: server, QPS: -1}
	switch mode {
	case "json":
		config.ContentType = "application/json"
	case "protobuf":
		config.ContentType = protobufType
		config.AcceptContentTypes = protobufType
	case "metadata":
		client, err := metadata.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		factory := metadatainformer.NewSharedInformerFactory(client, 0)
		return factory.ForResource(corev1.SchemeGroupVersion.WithResource("pods")).Informer(), nil
	default:
		return nil, fmt.Errorf("mode %q: expected json, protobuf or metadata", mode)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return informers.NewSharedInformerFactory(client, 0).Core().V1().Pods().Informer(), nil
}
