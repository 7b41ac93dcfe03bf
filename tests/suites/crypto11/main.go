// Signs, seals, encrypts and authenticates with crypto11, from one goroutine and from 32, and prints a line for each
// test: its name, a tab, and "ok" or the error. Arguments: the PKCS#11 library, the token's label, the PIN.
package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strings"
	"sync"

	"github.com/ThalesIgnite/crypto11"
	"github.com/miekg/pkcs11"
)

const (
	goroutines = 32
	rounds     = 10
)

var message = []byte("what an application signs and seals")

func main() {
	context, err := crypto11.Configure(&crypto11.Config{
		Path: os.Args[1], TokenLabel: os.Args[2], Pin: os.Args[3], GCMIVLength: 12, MaxSessions: 40,
	})
	report("configure", err)
	if err != nil {
		return
	}
	test("random bytes", func() error { return random(context) })
	test("RSA", func() error { return withRSA(context) })
	test("ECDSA", func() error { return withECDSA(context) })
	test("AES", func() error { return withAES(context) })
	test("HMAC", func() error { return withHMAC(context) })
	test("delete and close", func() error { return deleteAll(context) })
}

func report(name string, err error) {
	result := "ok"
	if err != nil {
		result = strings.Join(strings.Fields(err.Error()), " ")
	}
	fmt.Printf("%s\t%s\n", name, result)
}

// crypto11 panics where an interface of the standard library leaves no room for an error.
func guarded(run func() error) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	return run()
}

func test(name string, run func() error) {
	report(name, guarded(run))
}

// Runs it in 32 goroutines, ten times in each; gives the first error of any.
func atOnce(run func() error) error {
	failures := make(chan error, goroutines)
	var group sync.WaitGroup
	for i := 0; i < goroutines; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < rounds; round++ {
				if err := guarded(run); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(failures)
	return <-failures
}

func random(context *crypto11.Context) error {
	reader, err := context.NewRandomReader()
	if err != nil {
		return err
	}
	some := make([]byte, 1000)
	if _, err := io.ReadFull(reader, some); err != nil {
		return err
	}
	if bytes.Equal(some, make([]byte, len(some))) {
		return errors.New("only zeros")
	}
	return nil
}

func withRSA(context *crypto11.Context) error {
	key, err := context.GenerateRSAKeyPairWithLabel([]byte{1}, []byte("rsa"), 2048)
	if err != nil {
		return err
	}
	public := key.Public().(*rsa.PublicKey)
	digest := sha256.Sum256(message)
	pkcs1 := func() error {
		signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return err
		}
		return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature)
	}
	pss := func() error {
		options := rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}
		signature, err := key.Sign(rand.Reader, digest[:], &options)
		if err != nil {
			return err
		}
		return rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, &options)
	}
	// The outside encrypts, the token decrypts.
	oaep := func(hash crypto.Hash, label []byte) error {
		encrypted, err := rsa.EncryptOAEP(hash.New(), rand.Reader, public, message, label)
		if err != nil {
			return err
		}
		decrypted, err := key.Decrypt(rand.Reader, encrypted, &rsa.OAEPOptions{Hash: hash, Label: label})
		return same(decrypted, message, err)
	}
	test("RSA PKCS#1", pkcs1)
	test("RSA PKCS#1 from 32 goroutines", func() error { return atOnce(pkcs1) })
	test("RSA PSS", pss)
	test("RSA PSS from 32 goroutines", func() error { return atOnce(pss) })
	test("RSA OAEP, SHA-1", func() error { return oaep(crypto.SHA1, nil) })
	test("RSA OAEP, SHA-256", func() error { return oaep(crypto.SHA256, nil) })
	test("RSA OAEP, SHA-1, label", func() error { return oaep(crypto.SHA1, []byte("a label")) })
	test("RSA OAEP, SHA-256, label", func() error { return oaep(crypto.SHA256, []byte("a label")) })
	return nil
}

func withECDSA(context *crypto11.Context) error {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		name := curve.Params().Name
		key, err := context.GenerateECDSAKeyPairWithLabel([]byte{2}, []byte(name), curve)
		if err != nil {
			report("ECDSA "+name, err)
			continue
		}
		digest := sha256.Sum256(message)
		sign := func() error {
			signature, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				return err
			}
			var numbers struct{ R, S *big.Int }
			if _, err := asn1.Unmarshal(signature, &numbers); err != nil {
				return err
			}
			if !ecdsa.Verify(key.Public().(*ecdsa.PublicKey), digest[:], numbers.R, numbers.S) {
				return errors.New("a wrong signature")
			}
			return nil
		}
		test("ECDSA "+name, sign)
		test("ECDSA "+name+" from 32 goroutines", func() error { return atOnce(sign) })
	}
	return nil
}

func withAES(context *crypto11.Context) error {
	key, err := context.GenerateSecretKeyWithLabel([]byte{3}, []byte("aes"), 256, crypto11.CipherAES)
	if err != nil {
		return err
	}
	// crypto11 gives each call a nonce of our own: a new one each time.
	gcm := func(text, data []byte) error {
		aead, err := key.NewGCM()
		if err != nil {
			return err
		}
		nonce := make([]byte, aead.NonceSize())
		if _, err := rand.Read(nonce); err != nil {
			return err
		}
		sealed := aead.Seal(nil, nonce, text, data)
		if len(sealed) != len(text)+aead.Overhead() {
			return fmt.Errorf("%d bytes for %d", len(sealed), len(text))
		}
		opened, err := aead.Open(nil, nonce, sealed, data)
		if err := same(opened, text, err); err != nil {
			return err
		}
		sealed[0] ^= 1
		if _, err := aead.Open(nil, nonce, sealed, data); err == nil {
			return errors.New("opened what was changed")
		}
		return nil
	}
	cbc := func() error {
		aead, err := key.NewCBC(crypto11.PaddingPKCS)
		if err != nil {
			return err
		}
		iv := make([]byte, aead.NonceSize())
		opened, err := aead.Open(nil, iv, aead.Seal(nil, iv, message, nil), nil)
		return same(opened, message, err)
	}
	test("AES GCM", func() error { return gcm(message, nil) })
	test("AES GCM with data", func() error { return gcm(message, []byte("additional data")) })
	test("AES GCM of nothing with data", func() error { return gcm(nil, []byte("additional data")) })
	test("AES GCM of 1 MiB", func() error { return gcm(make([]byte, 1<<20), []byte("additional data")) })
	test("AES GCM from 32 goroutines", func() error {
		return atOnce(func() error { return gcm(message, []byte("additional data")) })
	})
	test("AES CBC", cbc)
	test("AES CBC from 32 goroutines", func() error { return atOnce(cbc) })
	test("AES block", func() error {
		encrypted, decrypted := make([]byte, 16), make([]byte, 16)
		key.Encrypt(encrypted, message[:16])
		key.Decrypt(decrypted, encrypted)
		return same(decrypted, message[:16], nil)
	})
	return nil
}

func withHMAC(context *crypto11.Context) error {
	key, err := context.GenerateSecretKeyWithLabel([]byte{4}, []byte("hmac"), 256, crypto11.CipherHMACSHA256)
	if err != nil {
		return err
	}
	mac := func() ([]byte, error) {
		hash, err := key.NewHMAC(pkcs11.CKM_SHA256_HMAC, 0)
		if err != nil {
			return nil, err
		}
		if _, err := hash.Write(message); err != nil {
			return nil, err
		}
		return hash.Sum(nil), nil
	}
	first, err := mac()
	if err != nil {
		return err
	}
	test("HMAC from 32 goroutines", func() error {
		return atOnce(func() error {
			again, err := mac()
			return same(again, first, err)
		})
	})
	return nil
}

func deleteAll(context *crypto11.Context) error {
	pairs, err := context.FindAllKeyPairs()
	if err != nil {
		return err
	}
	for _, pair := range pairs {
		if err := pair.Delete(); err != nil {
			return err
		}
	}
	keys, err := context.FindAllKeys()
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := key.Delete(); err != nil {
			return err
		}
	}
	return context.Close()
}

func same(given, expected []byte, err error) error {
	if err == nil && !bytes.Equal(given, expected) {
		err = errors.New("not the same bytes")
	}
	return err
}
