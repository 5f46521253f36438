package nbd

import "testing"

// N7: in the steady state, requests served in place allocate nothing, and those
// handed over nothing that grows with their number.
func TestNoAllocations(t *testing.T) {
	inPlace := rawDevice{patterned(1<<20, 2)}
	refusing := newMemoryDevice(1 << 20)
	refusing.refuse = always
	for _, test := range []struct {
		name   string
		device Device
		write  bool
	}{
		{"reads", inPlace, false},
		{"writes", inPlace, true},
		{"reads handed over", refusing, false},
		{"writes handed over", refusing, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := NewServer(Config{Exports: []Export{{Name: "swap", Device: test.device}}})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			server, client := socketPair(t)
			defer client.Close()
			s.admit(server)
			c := newTestClient(t, client)
			c.greeting()
			c.send(be32(3))
			c.goTo("swap")
			p := newPipeliner(client, 1<<20, test.write)
			run := func() {
				if err := p.run(320, 32); err != nil {
					t.Error(err)
				}
			}
			for range 10 {
				run() // jobs are made and buffers mapped when they are first needed
			}
			// A run is 320 requests, and the result is rounded down: what is left
			// is less than one allocation in 320 requests.
			if n := testing.AllocsPerRun(50, run); n != 0 {
				t.Errorf("%v allocations for 320 requests", n)
			}
		})
	}
}
