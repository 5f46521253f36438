package ctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tmemd/tmemd/cmd/internal/admin"
	"github.com/tmemd/tmemd/cmd/internal/cli"
	"github.com/tmemd/tmemd/cmd/internal/saved"
)

// Saved is what tmemctl export save prints as JSON.
type Saved struct {
	Export    string `json:"export"`
	File      string `json:"file"`
	SizeBytes int64  `json:"size_bytes"` // of the export
	Pages     uint64 `json:"pages"`      // that do not read as zeros
	DataBytes uint64 `json:"data_bytes"` // of their data, as it is kept
	Encrypted bool   `json:"encrypted"`
}

const keyFileHelp = "The key file has a passphrase in one line, or a key of age (age-keygen makes them); what is\n" +
	"encrypted is a file of the format age-encryption.org/v1."

func (t *tool) exportSave() *cobra.Command {
	var keyFile string
	var overwrite bool
	command := &cobra.Command{
		Use:   "save NAME FILE",
		Short: "Save an export that no client is attached to, in a file",
		Long: "Save an export that no client is attached to, in a file: its pages as they are kept, and\n" +
			"checksums. Clients are kept out meanwhile. The file is there when it is whole, or not at all.\n\n" +
			"It has all that was swapped out, in the clear unless there is a key. " + keyFileHelp,
		Example: "  tmemctl export save vm1 /backup/vm1.tmem --key-file /root/backup.key",
		Args:    arguments(2, "the name of an export and a file"),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := readKey(keyFile)
			if err != nil {
				return err
			}
			if _, err := os.Lstat(args[1]); err == nil && !overwrite {
				return cli.Failure("choose another name, or replace it with --overwrite", "%s exists", args[1])
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				done, err := t.save(ctx, client, args[0], args[1], key)
				if err != nil {
					return err
				}
				return t.show(done, func(w io.Writer) {
					fmt.Fprintf(w, "saved export %s: %s of pages, %s as they are kept, in %s\n",
						done.Export, pages(int64(done.Pages)), cli.Bytes(done.DataBytes), done.File)
				})
			})
		},
		ValidArgsFunction: t.completeExports(),
	}
	command.Flags().StringVar(&keyFile, "key-file", "", "encrypt with the key in this `file`")
	command.Flags().BoolVar(&overwrite, "overwrite", false, "replace a file that exists")
	return command
}

func readKey(path string) (*saved.Key, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, cli.Failure("", "%v", err)
	}
	key, err := saved.ParseKey(text)
	if err != nil {
		return nil, cli.Failure("put a passphrase into it, or what age-keygen prints", "key file %s: %v", path, err)
	}
	return &key, nil
}

// save writes a file beside the one that is wanted, checks what it writes, and renames it
// when it is whole and on its medium.
func (t *tool) save(ctx context.Context, client *admin.Client, name, path string, key *saved.Key) (done Saved, err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return done, cli.Failure("make its folder first, or choose another one", "%v", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	buffered := bufio.NewWriterSize(file, 1<<20)
	var to io.Writer = buffered
	closeKey := func() error { return nil }
	if key != nil {
		encrypted, err := key.Encrypt(buffered)
		if err != nil {
			return done, err
		}
		to, closeKey = encrypted, encrypted.Close
	}
	header, totals, err := checked(t.progress(to, "saving "+name), func(to io.Writer) error { return client.SaveExport(ctx, name, to) })
	if err != nil {
		return done, err
	}
	if err := errors.Join(closeKey(), buffered.Flush(), file.Sync()); err != nil {
		return done, fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return done, fmt.Errorf("write %s: %w", path, err)
	}
	// It is there by now: from here on nothing is removed.
	folder, failed := os.Open(filepath.Dir(path))
	if failed == nil {
		failed = errors.Join(folder.Sync(), folder.Close())
	}
	if failed = errors.Join(failed, file.Close()); failed != nil {
		fmt.Fprintf(t.log, "tmemctl: %s may be gone after a power cut: %v\n", path, failed)
	}
	return Saved{name, path, header.Size, totals.Pages, totals.Bytes, key != nil}, nil
}

// checked passes on what do writes, and looks at it on its way: it is a whole saved export
// if there is no error.
func checked(to io.Writer, do func(io.Writer) error) (saved.Header, saved.Totals, error) {
	type result struct {
		header saved.Header
		totals saved.Totals
		err    error
	}
	from, copied := io.Pipe()
	looked := make(chan result, 1)
	go func() {
		header, totals, err := saved.Check(from)
		from.CloseWithError(err) // nothing more is taken
		looked <- result{header, totals, err}
	}()
	err := do(io.MultiWriter(to, copied))
	copied.Close()
	r := <-looked
	if err == nil && r.err != nil {
		err = fmt.Errorf("what the daemon sent is no whole saved export: %w", r.err)
	}
	return r.header, r.totals, err
}

// meter tells how much went through it.
type meter struct {
	to    io.Writer
	tell  func(n uint64)
	bytes uint64
	told  time.Time
}

// Write implements io.Writer.
func (m *meter) Write(p []byte) (int, error) {
	n, err := m.to.Write(p)
	m.bytes += uint64(n)
	if now := time.Now(); now.Sub(m.told) >= lineEvery {
		m.told = now
		m.tell(m.bytes)
	}
	return n, err
}

func (t *tool) progress(to io.Writer, doing string) io.Writer {
	return &meter{to: to, told: time.Now(), tell: func(n uint64) {
		if !t.json {
			fmt.Fprintf(t.out, "%s: %s\n", doing, cli.Bytes(n))
		}
	}}
}

func (t *tool) exportRestore() *cobra.Command {
	var request admin.CreateRequest
	var keyFile string
	command := &cobra.Command{
		Use:   "restore NAME FILE",
		Short: "Make an export of what export save wrote, or fill an empty one",
		Long: "Make an export of what export save wrote, or fill one that is there, as large, empty and\n" +
			"without clients. The file is checked first. The export is there when it has every page;\n" +
			"whatever happens before, everything is as it was.\n\n" + keyFileHelp,
		Example: "  tmemctl export restore vm1 /backup/vm1.tmem --key-file /root/backup.key",
		Args:    arguments(2, "the name of an export and a file"),
		RunE: func(c *cobra.Command, args []string) error {
			key, err := readKey(keyFile)
			if err != nil {
				return err
			}
			request.Name = args[0]
			file, err := os.Open(args[1])
			if err != nil {
				return cli.Failure("", "%v", errors.Unwrap(err))
			}
			defer file.Close()
			if err := checkFile(file, args[1], key); err != nil {
				return err
			}
			return t.ask(c, func(ctx context.Context, client *admin.Client) error {
				plain, err := open(file, key)
				if err != nil {
					return fmt.Errorf("read %s: %w", args[1], err)
				}
				e, err := client.RestoreExport(ctx, request, io.TeeReader(plain, t.progress(io.Discard, "restoring "+args[0])))
				if err != nil {
					return err
				}
				return t.show(e, func(w io.Writer) {
					fmt.Fprintf(w, "restored export %s, %s, storage %s\n", e.Name, cli.Bytes(uint64(e.SizeBytes)), e.Storage.Path)
				})
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	command.Flags().StringVar(&keyFile, "key-file", "", "decrypt with the key in this `file`")
	command.Flags().StringArrayVar(&request.Allow, "allow", nil, "`rule` about who may open it: cert:NAME, uid:NUMBER or gid:NUMBER; may be repeated")
	command.Flags().StringVar(&request.Storage, "storage", "", "`path` of its storage (default: NAME.img in the daemon's folder)")
	command.Flags().StringVar(&request.Writethrough, "writethrough", "", "`mode`: off, async or sync (default off)")
	command.Flags().StringVar(&request.Client, "client", "", "`name` of the client that it belongs to (default: default)")
	command.Flags().StringVar(&request.Template, "template", "", "`template` of the configuration, for what is left out here")
	return command
}

// open returns what a file has in the clear, from its start.
func open(file io.ReadSeeker, key *saved.Key) (io.Reader, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(file, 1<<20)
	start, err := buffered.Peek(saved.SniffLength)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch encrypted := saved.IsEncrypted(start); {
	case encrypted && key == nil:
		return nil, cli.Failure("give the key with --key-file", "it is encrypted")
	case encrypted:
		return key.Decrypt(buffered)
	case key != nil:
		return nil, cli.Failure("leave --key-file out, if that is right", "it is not encrypted")
	}
	return buffered, nil
}

// checkFile reads a whole file before anything is done with it.
func checkFile(file io.ReadSeeker, path string, key *saved.Key) error {
	plain, err := open(file, key)
	if err == nil {
		_, _, err = saved.Check(plain)
	}
	var told *cli.Error
	var failed *fs.PathError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told):
		return cli.Failure(told.Hint, "%s: %s", path, told.Problem)
	case errors.As(err, &failed):
		return cli.Failure("", "%v", err)
	}
	return cli.Failure("nothing was changed; take another copy of it, or the right key", "%s cannot be restored: %v", path, err)
}
