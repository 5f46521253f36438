package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
)

func TestErrno(t *testing.T) {
	for _, test := range []struct {
		err  error
		want uint32
	}{
		{nil, 0},
		{syscall.EPERM, 1},
		{syscall.EACCES, 1},
		{syscall.EROFS, 1},
		{syscall.EIO, 5},
		{syscall.ENOMEM, 12},
		{syscall.EINVAL, 22},
		{syscall.ENOSPC, 28},
		{syscall.EDQUOT, 28},
		{syscall.EFBIG, 28},
		{syscall.EOVERFLOW, 75},
		{syscall.ENOTSUP, 95},
		{syscall.ENOSYS, 95},
		{errors.ErrUnsupported, 95},
		{fmt.Errorf("punch a hole: %w", errors.ErrUnsupported), 95},
		{syscall.ESHUTDOWN, 108},
		{syscall.ECONNRESET, 5},
		{syscall.Errno(4095), 5},
		{io.EOF, 5},
		{io.ErrUnexpectedEOF, 5},
		{errPanic, 5},
		{os.NewSyscallError("pwrite", syscall.ENOSPC), 28},
		{fmt.Errorf("store page 7: %w", errors.Join(io.EOF, syscall.EINVAL)), 22},
	} {
		if got := errnoOf(test.err); got != test.want {
			t.Errorf("errno of %v is %d, want %d", test.err, got, test.want)
		}
	}
}
