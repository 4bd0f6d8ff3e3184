package main

import (
	"context"
	"testing"

	"k8s.io/client-go/rest"
)

func TestOnlyTheLabsNamespaceMayReachTheLabsNetwork(t *testing.T) {
	own, err := ownNetworkNamespace()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, inside, outside string
		allowed               bool
	}{
		{"nothing is set", "", "", false},
		{"the lab's namespace", own, "1", true},
		{"another namespace than the lab's", "1", "2", false},
		{"the machine's own namespace", own, own, false},
		{"outer namespace unknown", own, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("UNBLINK_LAB_NETNS", test.inside)
			t.Setenv("UNBLINK_LAB_OUTER_NETNS", test.outside)
			err := refuseLab(context.Background(), "tcp4", "198.19.0.1:6443", nil)
			if (err == nil) != test.allowed {
				t.Errorf("allowed is %v, got error %v", test.allowed, err)
			}
		})
	}
}

func TestServersInTheLabsNetworkAreRefusedBeforeAnyDial(t *testing.T) {
	for host, refused := range map[string]bool{
		"https://198.18.0.2:443":          true,
		"https://198.19.255.255":          true,
		"https://[::ffff:198.18.0.1]:443": true,
		"https://127.0.0.1:6443":          false,
		"https://198.20.0.1":              false,
		"https://kubernetes.default":      false,
	} {
		if err := confine(&rest.Config{Host: host}); (err != nil) != refused {
			t.Errorf("%s: refused is %v, got error %v", host, refused, err)
		}
	}
}
