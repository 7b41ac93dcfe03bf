about="OpenSSL with libp11's engine for PKCS#11"
not_on="kryoptic: it uses the process's OpenSSL, in which the engine then is the default for RSA and EC"

prepare() {
    [ -n "$(find /usr/lib -path '*engines-3/pkcs11.so' | head -n 1)" ] ||
        { echo "pkcs11.so, the engine, is missing; make suites-packages installs it"; return 1; }
}

suite() {
    while read -r type id name usage; do
        # shellcheck disable=SC2086 # a list
        check "key $name" pkcs11-tool --module "$library" --token-label "$label" --login --pin "$pin" \
            --keypairgen --key-type "$type" --id "$id" --label "$name" $usage
    done <<KEYS
rsa:2048 01 rsa --usage-sign --usage-decrypt
EC:prime256v1 02 ec --usage-sign --usage-derive
EC:prime256v1 03 other --usage-derive
KEYS
    cat >openssl.cnf <<CONF
openssl_conf = main
[main]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
MODULE_PATH = $library
PIN = $pin
init = 0
CONF
    export OPENSSL_CONF="$PWD/openssl.cnf"
    printf '%032d' 5 >data
    token="pkcs11:token=$(echo "$label" | sed 's/ /%20/g')"
    check "engine" openssl engine -t pkcs11
    for name in rsa ec other; do
        check "public $name" openssl pkey -engine pkcs11 -inform engine -in "$token;object=$name;type=public" \
            -pubin -pubout -out $name.pem
    done
    for digest in sha1 sha256 sha512; do
        for name in rsa ec; do
            check "$name: sign $digest" openssl dgst -$digest -engine pkcs11 -keyform engine \
                -sign "$token;object=$name;type=private" -out signature data
            check "$name: verify $digest" openssl dgst -$digest -verify $name.pem -signature signature data
        done
    done
    check "RSA-PSS sign" openssl dgst -sha256 -engine pkcs11 -keyform engine \
        -sign "$token;object=rsa;type=private" -sigopt rsa_padding_mode:pss -out signature data
    check "RSA-PSS verify" openssl dgst -sha256 -verify rsa.pem -sigopt rsa_padding_mode:pss \
        -signature signature data
    # operation NAME KEY OPTIONS...: with a private key of the token.
    operation() {
        test=$1 key=$2
        shift 2
        check "$test" openssl pkeyutl -engine pkcs11 -keyform engine -inkey "$token;object=$key;type=private" "$@"
    }
    for padding in pkcs1 oaep; do
        check "RSA encrypt $padding" openssl pkeyutl -encrypt -pubin -inkey rsa.pem \
            -pkeyopt rsa_padding_mode:$padding -in data -out encrypted
        operation "RSA decrypt $padding" rsa -decrypt -pkeyopt rsa_padding_mode:$padding -in encrypted -out decrypted
        check "RSA $padding same" cmp data decrypted
    done
    operation "ECDH derive" ec -derive -peerkey other.pem -out secret
    operation "ECDH derive by the other" other -derive -peerkey ec.pem -out secret2
    check "ECDH same" cmp secret secret2
    check "certificate request" openssl req -new -x509 -subj /CN=suites -days 1 -engine pkcs11 \
        -keyform engine -key "$token;object=ec;type=private" -out ec.crt
}
