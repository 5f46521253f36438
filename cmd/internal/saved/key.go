package saved

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

// Key encrypts saved exports and decrypts them, as files of the format
// age-encryption.org/v1: authenticated in chunks, so that a file that was altered, cut
// short or added to is found out, and readable by other programs of that format too.
type Key struct {
	recipient age.Recipient  // nil: it only decrypts
	identity  []age.Identity // empty: it only encrypts
}

// minPassphrase is the shortest passphrase that is taken.
const minPassphrase = 12

// ParseKey takes the text of a key file: an age identity (AGE-SECRET-KEY-…, as
// age-keygen makes them), an age recipient (age1…), which can only encrypt, or else a
// passphrase.
func ParseKey(text []byte) (Key, error) {
	line := strings.TrimSpace(string(text))
	switch {
	case strings.Contains(line, "AGE-SECRET-KEY-"):
		identities, err := age.ParseIdentities(bytes.NewReader(text))
		if err != nil {
			return Key{}, fmt.Errorf("parse the key: %w", err)
		}
		k := Key{identity: identities}
		switch first := identities[0].(type) {
		case *age.X25519Identity:
			k.recipient = first.Recipient()
		case *age.HybridIdentity:
			k.recipient = first.Recipient()
		}
		return k, nil
	case strings.HasPrefix(line, "age1"):
		recipients, err := age.ParseRecipients(bytes.NewReader(text))
		if err != nil {
			return Key{}, fmt.Errorf("parse the key: %w", err)
		}
		return Key{recipient: recipients[0]}, nil
	case len(line) < minPassphrase || strings.ContainsAny(line, "\n\x00"):
		return Key{}, fmt.Errorf("parse the key: it is neither a key of age nor a passphrase of %d characters or more in one line", minPassphrase)
	}
	recipient, err := age.NewScryptRecipient(line)
	if err != nil {
		return Key{}, fmt.Errorf("parse the key: %w", err)
	}
	identity, err := age.NewScryptIdentity(line)
	if err != nil {
		return Key{}, fmt.Errorf("parse the key: %w", err)
	}
	return Key{recipient: recipient, identity: []age.Identity{identity}}, nil
}

// Encrypt encrypts what is written to the result, which has to be closed.
func (k Key) Encrypt(to io.Writer) (io.WriteCloser, error) {
	if k.recipient == nil {
		return nil, errors.New("encrypt: the key can only decrypt")
	}
	w, err := age.Encrypt(to, k.recipient)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return w, nil
}

// Decrypt decrypts what is read from the result. What it gives is authentic; that it is
// all, only the end of it says.
func (k Key) Decrypt(from io.Reader) (io.Reader, error) {
	if len(k.identity) == 0 {
		return nil, errors.New("decrypt: the key can only encrypt")
	}
	r, err := age.Decrypt(from, k.identity...)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %w", err)
	}
	return r, nil
}

// SniffLength is how many bytes IsEncrypted wants to see.
const SniffLength = len(ageMagic)

const ageMagic = "age-encryption.org/"

// IsEncrypted says whether a file that begins like that is an encrypted one.
func IsEncrypted(start []byte) bool { return strings.HasPrefix(string(start), ageMagic) }
