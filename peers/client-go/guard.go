package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
)

// labNetwork is where the lab's hosts live (RFC 2544). From the machine's own namespace the same
// addresses lead out of the machine, so that nothing may be sent to them from there.
var labNetwork = netip.MustParsePrefix("198.18.0.0/15")

// confine makes config unable to reach the lab's network from outside the lab: it refuses a server
// there at once, and each dial again, whatever name, redirect or proxy led to it.
func confine(config *rest.Config) error {
	server, err := url.Parse(config.Host)
	if err != nil {
		return fmt.Errorf("server of the kubeconfig: %w", err)
	}
	if address, err := netip.ParseAddr(server.Hostname()); err == nil {
		if err := mayReach(address); err != nil {
			return err
		}
	}
	// The values are those of client-go's own dialer (k8s.io/client-go/transport, cache.go).
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, ControlContext: refuseLab}
	config.Dial = dialer.DialContext
	return nil
}

func refuseLab(_ context.Context, _, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return mayReach(target.Addr())
}

func mayReach(address netip.Addr) error {
	if !labNetwork.Contains(address.Unmap()) {
		return nil
	}
	own, err := ownNetworkNamespace()
	if err != nil {
		return err
	}
	inside, outside := os.Getenv("UNBLINK_LAB_NETNS"), os.Getenv("UNBLINK_LAB_OUTER_NETNS")
	if inside == own && outside != "" && outside != own {
		return nil
	}
	return fmt.Errorf("refusing to send to %s: this network namespace is not one of the lab's", address)
}

// ownNetworkNamespace is the inode number of /proc/self/ns/net.
func ownNetworkNamespace() (string, error) {
	var stat syscall.Stat_t
	if err := syscall.Stat("/proc/self/ns/net", &stat); err != nil {
		return "", fmt.Errorf("own network namespace: %w", err)
	}
	return fmt.Sprint(stat.Ino), nil
}
