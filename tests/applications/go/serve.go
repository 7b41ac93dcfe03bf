// Serves TLS with a key of a PKCS#11 token, by crypto11. Arguments: the PKCS#11 library, the token's label, the PIN, the
// key's label, the file of its certificate, the address to listen on.
package main

import (
	"crypto/tls"
	"encoding/pem"
	"log"
	"net"
	"os"

	"github.com/ThalesIgnite/crypto11"
)

func main() {
	context, err := crypto11.Configure(&crypto11.Config{
		Path: os.Args[1], TokenLabel: os.Args[2], Pin: os.Args[3], MaxSessions: 16,
	})
	check(err)
	key, err := context.FindKeyPair(nil, []byte(os.Args[4]))
	check(err)
	if key == nil {
		log.Fatal("no such key")
	}
	text, err := os.ReadFile(os.Args[5])
	check(err)
	block, _ := pem.Decode(text)
	if block == nil {
		log.Fatal("no certificate")
	}
	listener, err := tls.Listen("tcp", os.Args[6], &tls.Config{
		Certificates:           []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}},
		SessionTicketsDisabled: true,
	})
	check(err)
	for {
		client, err := listener.Accept()
		check(err)
		go serve(client)
	}
}

func serve(client net.Conn) {
	defer client.Close()
	if _, err := client.Write([]byte("from the token\n")); err != nil {
		log.Print(err)
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
