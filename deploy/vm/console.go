package vm

import (
	"bytes"
	"sync"
)

// console keeps the end of what a machine printed.
type console struct {
	limit int // bytes; immutable

	mu   sync.Mutex
	tail []byte // guarded by mu
}

// Write never fails.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tail = append(c.tail, p...)
	if over := len(c.tail) - c.limit; over > 0 {
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
	return len(p), nil
}

// String returns the end of the output, without carriage returns.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(bytes.ReplaceAll(c.tail, []byte("\r"), nil))
}
