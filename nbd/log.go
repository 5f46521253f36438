package nbd

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Lines that peers can provoke are logged at most this fast. A fuzzer makes
// other servers write hundreds of thousands of them.
const (
	logBurst    = 20
	logInterval = time.Second // for one more line
)

// limitedLog is a logger for what peers and devices do wrong.
type limitedLog struct {
	log *slog.Logger // immutable

	mu struct {
		sync.Mutex
		allowance int
		refilled  time.Time
		dropped   int
	}
}

func newLimitedLog(log *slog.Logger) *limitedLog {
	l := &limitedLog{log: log}
	l.mu.allowance = logBurst
	l.mu.refilled = time.Now()
	return l
}

func (l *limitedLog) debug(message string, args ...any) { l.write(slog.LevelDebug, message, args) }
func (l *limitedLog) warn(message string, args ...any)  { l.write(slog.LevelWarn, message, args) }
func (l *limitedLog) error(message string, args ...any) { l.write(slog.LevelError, message, args) }

func (l *limitedLog) write(level slog.Level, message string, args []any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	dropped, ok := l.admit(time.Now())
	if !ok {
		return
	}
	if dropped > 0 {
		args = append(args, "lines_dropped_before", dropped)
	}
	l.log.Log(context.Background(), level, message, args...)
}

// admit says whether a line may be written now, and how many were not since the
// last one that was.
func (l *limitedLog) admit(now time.Time) (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if refill := int(now.Sub(l.mu.refilled) / logInterval); refill > 0 {
		l.mu.allowance = min(logBurst, l.mu.allowance+refill)
		l.mu.refilled = l.mu.refilled.Add(time.Duration(refill) * logInterval)
	}
	if l.mu.allowance == 0 {
		l.mu.dropped++
		return 0, false
	}
	l.mu.allowance--
	dropped, l.mu.dropped = l.mu.dropped, 0
	return dropped, true
}
