// Command client-go-informer runs client-go's SharedInformer on one resource and says on standard
// output, as JSON lines, what its watch does. The Reflector's policy is client-go's own: nothing here
// changes its timeouts, its backoff or WatchList.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

type options struct {
	kubeconfig    string
	namespace     string
	resource      string
	fieldSelector string
	pprof         string
}

func main() {
	var opts options
	flag.StringVar(&opts.kubeconfig, "kubeconfig", "", "path of the kubeconfig file")
	flag.StringVar(&opts.namespace, "namespace", "", "namespace to watch; empty means all")
	flag.StringVar(&opts.resource, "resource", "configmaps", "what to watch, as kubectl writes it: configmaps, deployments.v1.apps")
	flag.StringVar(&opts.fieldSelector, "field-selector", "", "field selector of list and watch")
	flag.StringVar(&opts.pprof, "pprof", "", "serve /debug/pprof on this unix socket path or host:port")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	log := newEventLog(os.Stdout)
	if err := run(ctx, opts, log); err != nil {
		log.emit("fatal", fields{"error": err.Error()})
		os.Exit(2)
	}
}

// run watches until ctx ends; an error means that it could not begin.
func run(ctx context.Context, opts options, log *eventLog) error {
	if opts.kubeconfig == "" {
		return errors.New("-kubeconfig is missing")
	}
	config, err := clientcmd.BuildConfigFromFlags("", opts.kubeconfig)
	if err != nil {
		return err
	}
	if err := confine(config); err != nil {
		return err
	}
	resource, err := parseResource(opts.resource)
	if err != nil {
		return err
	}
	informer, tracker, err := newInformer(config, resource, opts, log)
	if err != nil {
		return err
	}
	if opts.pprof != "" {
		closer, err := servePprof(opts.pprof)
		if err != nil {
			return err
		}
		defer closer.Close()
	}

	log.emit("ready", fields{"client": clientGoVersion(), "pid": os.Getpid()})
	go sayAlive(ctx, log, tracker, informer)
	informer.RunWithContext(ctx)
	return nil
}

func newInformer(config *rest.Config, resource schema.GroupVersionResource, opts options, log *eventLog) (cache.SharedIndexInformer, *tracker, error) {
	config.Wrap(trackBodies)
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, nil, err
	}
	tracker := &tracker{log: log}
	listWatch := tracker.listWatch(client.Resource(resource).Namespace(opts.namespace), opts.fieldSelector)
	informer := cache.NewSharedIndexInformerWithOptions(
		cache.ToListWatcherWithWatchListSemantics(listWatch, client),
		&unstructured.Unstructured{},
		cache.SharedIndexInformerOptions{ObjectDescription: resource.String()},
	)
	err = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		if ctx.Err() == nil {
			log.emit("reflector-error", fields{"error": err.Error()})
		}
		cache.DefaultWatchErrorHandler(ctx, r, err)
	})
	return informer, tracker, err
}

func parseResource(text string) (schema.GroupVersionResource, error) {
	if text == "" {
		return schema.GroupVersionResource{}, errors.New("-resource is empty")
	}
	if !strings.Contains(text, ".") {
		return schema.GroupVersionResource{Version: "v1", Resource: text}, nil
	}
	resource, _ := schema.ParseResourceArg(text)
	if resource == nil {
		return schema.GroupVersionResource{}, fmt.Errorf("-resource %q: give the version too, as in deployments.v1.apps", text)
	}
	return *resource, nil
}

// sayAlive tells once a second how long the current watch has been open, which is the age that a
// goroutine dump shows for the reflector's watch handler.
func sayAlive(ctx context.Context, log *eventLog, tracker *tracker, informer cache.SharedIndexInformer) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			log.emit("alive", fields{"watch_age_s": tracker.watchAge(), "held_rv": informer.LastSyncResourceVersion()})
		}
	}
}

// servePprof serves net/http/pprof on a unix socket, or on host:port where the address has that form.
func servePprof(address string) (io.Closer, error) {
	network := "unix"
	if _, _, err := net.SplitHostPort(address); err == nil && !strings.Contains(address, "/") {
		network = "tcp"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go server.Serve(listener)
	return server, nil
}
