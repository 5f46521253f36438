package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"syscall"

	gonbd "github.com/pojntfx/go-nbd/pkg/server"

	"github.com/tmemd/tmemd/nbd"
	"github.com/tmemd/tmemd/tier"
)

// serveCommand as first argument makes this program a server to be measured.
const serveCommand = "serve"

// Devices to serve.
const (
	deviceMemory = "memory" // plain memory
	deviceTier   = "tier"   // what tmemd serves
)

// Engines that serve it.
const (
	engineOwn   = "tmemd"
	engineGoNBD = "go-nbd"
)

// serve runs a server until it is told to end.
func serve(arguments []string) (err error) {
	set := flag.NewFlagSet(serveCommand, flag.ContinueOnError)
	device := set.String("device", deviceMemory, "memory or tier")
	engine := set.String("engine", engineOwn, "tmemd or go-nbd")
	socket := set.String("socket", "", "Unix socket to listen on")
	pages := set.Int("pages", 0, "pages of the export")
	profile := set.String("profile", "", "file for a processor profile")
	if err := set.Parse(arguments); err != nil {
		return err
	}
	served, end, err := openDevice(*device, *pages, filepath.Dir(*socket))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()

	listener, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch *engine {
	case engineOwn:
		return serveOwn(ctx, listener, served)
	case engineGoNBD:
		return serveGoNBD(ctx, listener, served)
	}
	return fmt.Errorf("serve: no engine %q", *engine)
}

func serveOwn(ctx context.Context, listener net.Listener, device nbd.Device) error {
	server, err := nbd.NewServer(nbd.Config{Exports: []nbd.Export{{Name: exportName, Device: device}}})
	if err != nil {
		return err
	}
	err = server.Serve(ctx, listener)
	server.Close()
	return err
}

// serveGoNBD serves with go-nbd, whose server handles one connection; errors of
// it are how a connection ends.
func serveGoNBD(ctx context.Context, listener net.Listener, device nbd.Device) error {
	exports := []*gonbd.Export{{Name: exportName, Backend: device}}
	var connections sync.WaitGroup
	defer connections.Wait()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		connections.Go(func() {
			defer conn.Close()
			end := context.AfterFunc(ctx, func() { conn.Close() })
			defer end()
			_ = gonbd.Handle(conn, exports, nil)
		})
	}
}

func openDevice(name string, pages int, folder string) (nbd.Device, func() error, error) {
	switch name {
	case deviceMemory:
		device, err := newMemoryDevice(pages)
		if err != nil {
			return nil, nil, err
		}
		return device, device.Close, nil
	case deviceTier:
		storage, err := tier.OpenFile(filepath.Join(folder, "storage"), int64(pages)*pageSize)
		if err != nil {
			return nil, nil, err
		}
		e, err := newExport(storage)
		if err != nil {
			return nil, nil, err
		}
		return e.device, e.close, nil
	}
	return nil, nil, fmt.Errorf("serve: no device %q", name)
}

var _ io.Closer = (*memoryDevice)(nil)
