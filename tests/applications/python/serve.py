"""Signs what clients send, a line each, with an EC key of a PKCS#11 token, in a thread for each client. Answers the
signature in hexadecimal, as ASN.1, or "error". Arguments: the PKCS#11 library, the token's label, the PIN, the port."""

import hashlib
import socketserver
import sys

import pkcs11
from pkcs11.util.ec import encode_ecdsa_signature

path, label, pin, port = sys.argv[1:]
token = pkcs11.lib(path).get_token(token_label=label)
# All sessions have its login.
first = token.open(user_pin=pin)


class Client(socketserver.StreamRequestHandler):
    """Serves one client."""

    def handle(self):
        for line in self.rfile:
            try:
                with token.open() as session:
                    key = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label="ec")
                    digest = hashlib.sha256(line.rstrip(b"\n")).digest()
                    signature = encode_ecdsa_signature(key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))
                    answer = signature.hex()
            except pkcs11.PKCS11Error as error:
                print(repr(error), file=sys.stderr)
                answer = "error"
            self.wfile.write(answer.encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    """Takes many clients at a time."""

    allow_reuse_address = True
    daemon_threads = True


with Server(("127.0.0.1", int(port)), Client) as server:
    server.serve_forever()
