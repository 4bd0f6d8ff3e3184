package main

import (
	"context"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
)

// tracker stands between client-go's Reflector and its client, passes everything on as it is, and logs it.
type tracker struct {
	log *eventLog

	mutex  sync.Mutex
	opened float64 // CLOCK_MONOTONIC seconds at which the open watch was answered; 0 while there is none
	listed bool    // a list, or the initial events of a watch, was complete once
	items  int     // objects on the pages of the list under way
}

func (t *tracker) listWatch(client dynamic.ResourceInterface, fieldSelector string) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			opts.FieldSelector = fieldSelector
			page, err := client.List(ctx, opts)
			if err != nil {
				return nil, err
			}
			t.logPage(page, opts.Continue == "")
			return page, nil
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			opts.FieldSelector = fieldSelector
			return t.watch(ctx, client, opts)
		},
	}
}

func (t *tracker) logPage(page *unstructured.UnstructuredList, first bool) {
	if first {
		t.items = 0
	}
	t.items += len(page.Items)
	if page.GetContinue() == "" {
		t.logList(page.GetResourceVersion(), t.items)
	}
	for i := range page.Items {
		t.logObject(watch.Added, &page.Items[i], "list")
	}
}

func (t *tracker) logList(rv string, items int) {
	reason := "initial"
	if t.listed {
		reason = "relist"
	}
	t.listed = true
	t.log.emit("list", fields{"rv": rv, "items": items, "reason": reason})
}

func (t *tracker) logObject(kind watch.EventType, object runtime.Object, source string) {
	name, rv := "", ""
	if accessor, err := meta.Accessor(object); err == nil {
		name, rv = accessor.GetName(), accessor.GetResourceVersion()
	}
	t.log.emit("object", fields{"type": string(kind), "name": name, "rv": rv, "source": source})
}

// watchAge is the seconds since the open watch was answered, nil while none is open.
func (t *tracker) watchAge() any {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.opened == 0 {
		return nil
	}
	return float64(int64((monotonicSeconds()-t.opened)*1000)) / 1000
}

func (t *tracker) setOpened(at float64) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.opened = at
}

func (t *tracker) watch(ctx context.Context, client dynamic.ResourceInterface, opts metav1.ListOptions) (watch.Interface, error) {
	body := &stream{}
	inner, err := client.Watch(context.WithValue(ctx, streamKey{}, body), opts)
	if err != nil {
		if ctx.Err() == nil {
			by, detail := refusedBy(err)
			t.log.emit("ended", fields{"by": by, "detail": detail})
		}
		return nil, err
	}
	t.setOpened(monotonicSeconds())
	initial := opts.SendInitialEvents != nil && *opts.SendInitialEvents
	var timeout any
	if opts.TimeoutSeconds != nil {
		timeout = *opts.TimeoutSeconds
	}
	t.log.emit("watch", fields{"rv": opts.ResourceVersion, "timeout_s": timeout, "send_initial_events": initial})

	outer := &trackedWatch{inner: inner, events: make(chan watch.Event), stopped: make(chan struct{})}
	go t.pump(ctx, outer, body, initial)
	return outer, nil
}

// trackedWatch gives the Reflector the events of inner, each after it was looked at.
type trackedWatch struct {
	inner    watch.Interface
	events   chan watch.Event
	stopped  chan struct{}
	stopOnce sync.Once
}

func (w *trackedWatch) ResultChan() <-chan watch.Event { return w.events }

func (w *trackedWatch) Stop() {
	w.stopOnce.Do(func() { close(w.stopped) })
	w.inner.Stop()
}

// pump hands events over until the watch ends. An object is logged once the Reflector has taken it.
func (t *tracker) pump(ctx context.Context, w *trackedWatch, body *stream, initial bool) {
	defer close(w.events)
	by, detail := "", ""
	items := 0
	for event := range w.inner.ResultChan() {
		if event.Type == watch.Error && by == "" {
			by, detail = errorEvent(event.Object, body.end())
		}
		select {
		case w.events <- event:
		case <-w.stopped:
			continue
		}
		switch {
		case event.Type == watch.Error:
		case initial && endsInitialEvents(event):
			initial = false
			t.logList(resourceVersion(event.Object), items)
		case initial && event.Type != watch.Bookmark:
			items++
			t.logObject(event.Type, event.Object, "list")
		default:
			t.logObject(event.Type, event.Object, "watch")
		}
	}
	t.setOpened(0)
	if by == "" {
		by, detail = endedBy(body.end())
	}
	if ctx.Err() == nil {
		t.log.emit("ended", fields{"by": by, "detail": detail})
	}
}

// errorEvent tells an ERROR event of the server from one that client-go made of a broken body.
func errorEvent(object runtime.Object, bodyEnd error) (by, detail string) {
	if bodyEnd != nil {
		if by, detail := endedBy(bodyEnd); by != "server-closed" {
			return by, detail
		}
	}
	if status, ok := object.(*metav1.Status); ok {
		return "error-event", statusText(*status)
	}
	return "error-event", apierrors.FromObject(object).Error()
}

func endsInitialEvents(event watch.Event) bool {
	if event.Type != watch.Bookmark {
		return false
	}
	accessor, err := meta.Accessor(event.Object)
	return err == nil && accessor.GetAnnotations()[metav1.InitialEventsAnnotationKey] == "true"
}

func resourceVersion(object runtime.Object) string {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return ""
	}
	return accessor.GetResourceVersion()
}
