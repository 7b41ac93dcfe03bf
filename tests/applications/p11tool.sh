about="GnuTLS's p11tool and certtool: lists, signs, makes keys and a certificate"
transport=unix

p11() {
    GNUTLS_PIN=$pin p11tool --provider "$library" --batch --login "$@"
}
lists() {
    p11tool --provider "$library" --list-token-urls >urls && contains urls "token=$label" &&
        p11 --list-all "$token" >all && contains all "object=rsa;type=private" && contains all "object=ec;type=cert"
}
new_key() {
    p11 --generate-privkey ecdsa --bits 256 --label new --id 11 --outfile new.pub "$token" && cat new.pub
}
# The certificate is signed on the token; OpenSSL verifies it.
certificate() {
    printf 'cn = "signed on the token"\nexpiration_days = 2\nca\ncert_signing_key\n' >template
    GNUTLS_PIN=$pin certtool --provider "$library" --generate-self-signed --template template \
        --load-privkey "$token;object=$1;type=private" --load-pubkey "$public/$1.pub" --outfile "$1.crt" &&
        openssl verify -CAfile "$1.crt" -check_ss_sig "$1.crt" &&
        openssl x509 -in "$1.crt" -noout -pubkey | cmp - "$public/$1.pub"
}
exports() {
    p11tool --provider "$library" --batch --export "$token;object=ec;type=cert" --outfile ec.crt &&
        openssl x509 -in ec.crt -outform DER | cmp - "$public/ec.der"
}

application() {
    step "lists token and objects" lists
    step "exports a certificate" exports
    for key in rsa ec; do
        step "test signature with $key" p11 --test-sign "$token;object=$key;type=private"
        step "certificate by $key" certificate $key
    done
    step "new key" new_key
    step "test signature with the new key" p11 --test-sign "$token;object=new;type=private"
}
