about="OpenSSL with pkcs11-provider: keys, signatures, decryption, ECDH, TLS"

prepare() {
    provider=$(find /usr/lib -path '*ossl-modules/pkcs11.so' | head -n 1)
    [ -n "$provider" ] || { echo "pkcs11.so, the provider, is missing; make suites-packages installs it"; return 1; }
    echo "$provider" >provider
}

# In the direct run, the lines of OpenSSL's error queue are those of the module too, which uses the same OpenSSL.
suite() {
    commands | sed -E 's, ?\| [0-9A-F]+:error:[^|]*,,g'
}

commands() {
    while read -r type id name usage; do
        # shellcheck disable=SC2086 # a list
        check "key $name" pkcs11-tool --module "$library" --token-label "$label" --login --pin "$pin" \
            --keypairgen --key-type "$type" --id "$id" --label "$name" $usage
    done <<KEYS
rsa:2048 01 rsa --usage-sign --usage-decrypt
EC:prime256v1 02 ec --usage-sign --usage-derive
EC:prime256v1 03 other --usage-derive
EC:edwards25519 04 ed --usage-sign
KEYS
    provider=$(cat "$tools/provider")
    # Without no-deinit, SoftHSM crashes at the end of the process, when OpenSSL is gone before it.
    cat >openssl.cnf <<CONF
openssl_conf = main
[main]
providers = providers
[providers]
default = openssl
pkcs11 = pkcs11
[openssl]
activate = 1
[pkcs11]
module = $provider
pkcs11-module-path = $library
pkcs11-module-token-pin = $pin
pkcs11-module-quirks = no-deinit
activate = 1
CONF
    export OPENSSL_CONF="$PWD/openssl.cnf"
    printf '%032d' 5 >data
    token="pkcs11:token=$(echo "$label" | sed 's/ /%20/g')"
    check "provider" openssl list -providers
    check "store" sh -c 'openssl storeutl -noout -text "$1" | grep -c ": P[ur]"' sh "$token"
    for name in rsa ec other ed; do
        check "public $name" openssl pkey -in "$token;object=$name;type=public" -pubin -pubout -out $name.pem
    done
    private() {
        echo "$token;object=$1;type=private"
    }
    check "RSA sign" openssl dgst -sha256 -sign "$(private rsa)" -out signature data
    check "RSA verify outside" openssl dgst -sha256 -verify rsa.pem -signature signature data
    check "RSA verify" openssl pkeyutl -verify -pubin -inkey "$token;object=rsa;type=public" -rawin -digest sha256 \
        -in data -sigfile signature
    check "RSA-PSS sign" openssl pkeyutl -sign -inkey "$(private rsa)" -rawin -digest sha256 \
        -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:32 -in data -out signature
    check "RSA-PSS verify outside" openssl pkeyutl -verify -pubin -inkey rsa.pem -rawin \
        -digest sha256 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:32 -in data -sigfile signature
    for digest in sha1 sha256; do
        check "RSA-OAEP $digest encrypt outside" openssl pkeyutl -encrypt -pubin -inkey rsa.pem \
            -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:$digest -in data -out encrypted
        check "RSA-OAEP $digest decrypt" openssl pkeyutl -decrypt -inkey "$(private rsa)" \
            -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:$digest -in encrypted -out decrypted
        check "RSA-OAEP $digest same" cmp data decrypted
    done
    check "RSA-OAEP label encrypt outside" openssl pkeyutl -encrypt -pubin -inkey rsa.pem \
        -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_label:0102 -in data -out encrypted
    check "RSA-OAEP label decrypt" openssl pkeyutl -decrypt -inkey "$(private rsa)" \
        -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_label:0102 -in encrypted -out decrypted
    check "ECDSA sign" openssl dgst -sha256 -sign "$(private ec)" -out signature data
    check "ECDSA verify outside" openssl dgst -sha256 -verify ec.pem -signature signature data
    check "EdDSA sign" openssl pkeyutl -sign -inkey "$(private ed)" -rawin -in data -out signature
    check "EdDSA verify outside" openssl pkeyutl -verify -pubin -inkey ed.pem -rawin -in data \
        -sigfile signature
    check "ECDH derive" openssl pkeyutl -derive -inkey "$(private ec)" -peerkey other.pem -out secret
    check "ECDH derive by the other" openssl pkeyutl -derive -inkey "$(private other)" -peerkey ec.pem -out secret2
    check "ECDH same" cmp secret secret2
    check "certificate request" openssl req -new -x509 -subj /CN=suites -days 1 -key "$(private ec)" -out ec.crt
    check "key generation" openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt \
        "pkcs11_uri:$token;object=made" -propquery provider=pkcs11 -out made.pem
}
