package nbd

import (
	"errors"
	"syscall"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// Error numbers as the protocol fixes them. They happen to be Linux's, which
// the code does not rely on.
const (
	errnoPerm        = protocol.TRANSMISSION_ERROR_EPERM
	errnoIO          = uint32(5)
	errnoNoMemory    = uint32(12)
	errnoInvalid     = protocol.TRANSMISSION_ERROR_EINVAL
	errnoNoSpace     = uint32(28)
	errnoOverflow    = uint32(75)
	errnoUnsupported = uint32(95)
	errnoShutdown    = uint32(108)
)

// errnoOf is the one place where errors become numbers on the wire. What has no
// number there is an I/O error; nil is 0, success.
func errnoOf(err error) uint32 {
	if err == nil {
		return 0
	}
	if errors.Is(err, errors.ErrUnsupported) {
		return errnoUnsupported
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		return errnoIO
	}
	switch number {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return errnoPerm
	case syscall.ENOMEM:
		return errnoNoMemory
	case syscall.EINVAL:
		return errnoInvalid
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return errnoNoSpace
	case syscall.EOVERFLOW:
		return errnoOverflow
	case syscall.ESHUTDOWN:
		return errnoShutdown
	}
	return errnoIO
}
