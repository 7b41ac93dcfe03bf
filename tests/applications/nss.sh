about="NSS: modutil, certutil, a TLS server"
transport=tcp
lives=long
signs=2

adds() {
    modutil -dbdir sql:db -force -add ours -libfile "$library" && modutil -dbdir sql:db -list ours >listed &&
        contains listed "Token Name: $label"
}
lists() {
    certutil -K -d sql:db -h "$label" -f pin >keys && contains keys "rsa      01" && contains keys "ec       02" &&
        certutil -L -d sql:db -h "$label" -f pin -n "$label:ec" -r | cmp - "$public/ec.der"
}
# A signed request for a certificate, of a pair of keys that NSS makes on the token.
new_key() {
    certutil -R -d sql:db -h "$label" -f pin -k rsa -g 2048 -s CN=made -o made.der -z noise &&
        openssl req -inform DER -in made.der -verify -noout
}
# A message that is signed with the key on the token.
signs() {
    echo "what an application signs" >data &&
        certutil -M -d sql:db -h "$label" -f pin -n "$label:rsa" -t ,, &&
        cmsutil -S -d sql:db -f pin -N "$label:rsa" -T -H SHA256 -i data -o data.p7s &&
        openssl cms -verify -inform DER -in data.p7s -content data -binary -purpose any -CAfile "$public/ca.pem" \
            -out /dev/null
}
operation() {
    handshake "$port" ec -tls1_3 && handshake "$port" ec -tls1_2
}

application() {
    mkdir db
    echo "$pin" >pin
    head -c 100 /dev/urandom >noise
    step "new database" certutil -N -d sql:db --empty-password
    step "modutil -add" adds
    step "certutil lists" lists
    step "certutil -A" certutil -A -d sql:db -n ca -t C,C,C -a -i "$public/ca.pem"
    step "certutil makes a key" new_key
    step "cmsutil signs" signs
    selfserv=$(command -v selfserv || find /usr/lib -path '*nss/unsupported-tools/selfserv' | head -n 1)
    port=$(free_port)
    # With the RSA key, SSL_ConfigServerCert fails on SoftHSM itself (error -8173).
    serve "$port" "$selfserv" -d sql:db -n "$label:ec" -p "$port" -w "$pin" -V tls1.2:tls1.3
    step "handshakes" operation
    load operation 3 15
}
