package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"
)

func main() {
	device := flag.String("device", "/dev/nbd0", "swap device to detach at the end")
	line := flag.String("orders", "/dev/ttyS1", "serial line to the host, in raw mode")
	mib := flag.Int("mib", 200, "memory to keep in use, in MiB")
	seed := flag.Uint64("seed", 1, "seed of all content")
	agent := flag.Bool("agent", false, "the device was attached by tmemctl")
	disk := flag.Bool("disk", false, "the device is a disk of the machine's: nobody attached it")
	workers := flag.Int("workers", 4, "threads that verify side by side")
	flag.Parse()
	if err := run(linux{device: *device, agent: *agent, disk: *disk}, *line, *mib, *seed, *workers); err != nil {
		fmt.Fprintf(os.Stderr, "guest: %v\n", err)
		os.Exit(1)
	}
}

func run(kernel linux, line string, mib int, seed uint64, workers int) (err error) {
	// A worker waiting for a page holds its processor as far as the runtime can tell; two more keep orders and reports going.
	runtime.GOMAXPROCS(workers + 2)
	memory, err := newMemory(mib<<20/pageSize, seed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.close()) }()
	if err := memory.lockOthers(); err != nil {
		return err
	}
	serial, err := os.OpenFile(line, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the line to the host: %w", err)
	}
	defer func() { err = errors.Join(err, serial.Close()) }()
	list, counters := newWorkers(memory, workers)
	agent := &agent{
		kernel: kernel, workers: list, counters: counters,
		reports: serial, every: time.Second,
	}
	return agent.run(serial)
}
