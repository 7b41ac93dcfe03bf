about="OpenSC's pkcs11-tool: its own tests, lists, keys, and each operation that its version has"

prepare() {
    pkcs11-tool --help 2>&1 | sed -n '/--[a-z]/p' >options
}

p11() {
    test=$1
    shift
    check "$test" pkcs11-tool --module "$library" --token-label "$label" "$@"
}
user() {
    test=$1
    shift
    p11 "$test" --login --pin "$pin" "$@"
}

# objects NAME OPTIONS...: lists the objects, whose order and handles are not the same in each run.
objects() {
    test=$1
    shift
    check "$test" sh -c 'pkcs11-tool "$@" | sed -E "s/^(Data object|Object) [0-9]+/\1/" | sort' sh \
        --module "$library" --token-label "$label" --list-objects "$@"
}

# round NAME OPTIONS...: encrypts and decrypts with the same options, and compares.
round() {
    operation=$1
    shift
    user "$operation: encrypt" --encrypt "$@" --input-file data --output-file encrypted
    user "$operation: decrypt" --decrypt "$@" --input-file encrypted --output-file decrypted
    check "$operation: same" cmp data decrypted
}

suite() {
    printf '%032d' 5 >data
    p11 "info" --show-info
    p11 "interfaces" --list-interfaces
    p11 "slots" --list-slots
    p11 "mechanisms" --list-mechanisms
    objects "objects without login"
    user "test of an empty token" --test
    user "test of forks" --test-fork
    user "test of EC" --test-ec --id 99 --key-type EC:prime256v1 --label test-ec

    user "RSA key" --keypairgen --key-type rsa:2048 --id 01 --label rsa --usage-sign --usage-decrypt --usage-wrap
    user "test with an RSA key" --test
    user "EC key" --keypairgen --key-type EC:prime256v1 --id 02 --label ec --usage-sign --usage-derive
    user "EC key of the other side" --keypairgen --key-type EC:prime256v1 --id 03 --label other --usage-derive
    user "Ed25519 key" --keypairgen --key-type EC:ed25519 --id 04 --label ed
    user "AES key" --keygen --key-type AES:32 --id 05 --label aes --usage-decrypt --usage-wrap --sensitive
    user "generic key" --keygen --key-type GENERIC:64 --id 06 --label generic --usage-sign
    user "extractable AES key" --keygen --key-type AES:16 --id 07 --label plain --usage-decrypt --extractable
    objects "objects" --login --pin "$pin"

    for mechanism in RSA-PKCS SHA1-RSA-PKCS SHA256-RSA-PKCS SHA512-RSA-PKCS SHA256-RSA-PKCS-PSS; do
        user "$mechanism: sign" --sign --mechanism $mechanism --id 01 --input-file data --output-file signature
        user "$mechanism: verify" --verify --mechanism $mechanism --id 01 --input-file data --signature-file signature
    done
    for mechanism in ECDSA ECDSA-SHA1 ECDSA-SHA256 ECDSA-SHA384; do
        user "$mechanism: sign" --sign --mechanism $mechanism --id 02 --input-file data --output-file signature
        user "$mechanism: verify" --verify --mechanism $mechanism --id 02 --input-file data --signature-file signature
    done
    user "EdDSA: sign" --sign --mechanism EDDSA --id 04 --input-file data --output-file signature
    user "EdDSA: verify" --verify --mechanism EDDSA --id 04 --input-file data --signature-file signature
    for mechanism in SHA256-HMAC SHA512-HMAC; do
        user "$mechanism: sign" --sign --mechanism $mechanism --id 06 --input-file data --output-file signature
    done

    user "public RSA key" --read-object --type pubkey --id 01 --output-file rsa.der
    user "public EC key" --read-object --type pubkey --id 03 --output-file ec.der
    check "RSA-OAEP: encrypt outside" openssl pkeyutl -encrypt -pubin -keyform DER -inkey rsa.der \
        -pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha1 -in data -out encrypted
    user "RSA-OAEP: decrypt" --decrypt --mechanism RSA-PKCS-OAEP --hash-algorithm SHA-1 --mgf MGF1-SHA1 --id 01 \
        --input-file encrypted --output-file decrypted
    check "RSA-OAEP: same" cmp data decrypted
    check "RSA-PKCS: encrypt outside" openssl pkeyutl -encrypt -pubin -keyform DER -inkey rsa.der \
        -in data -out encrypted
    user "RSA-PKCS: decrypt" --decrypt --mechanism RSA-PKCS --id 01 --input-file encrypted --output-file decrypted
    check "RSA-PKCS: same" cmp data decrypted

    user "ECDH1-DERIVE" --derive --mechanism ECDH1-DERIVE --id 02 --input-file ec.der --output-file secret
    check "ECDH1-DERIVE: length" wc -c secret
    user "ECDH1-DERIVE of DER" --derive --derive-pass-der --mechanism ECDH1-DERIVE --id 02 --input-file ec.der \
        --output-file secret2
    check "ECDH1-DERIVE of DER: the same" cmp secret secret2

    round "AES-ECB" --mechanism AES-ECB --id 05
    round "AES-CBC" --mechanism AES-CBC --id 05 --iv 000102030405060708090a0b0c0d0e0f
    round "AES-CBC-PAD" --mechanism AES-CBC-PAD --id 05 --iv 000102030405060708090a0b0c0d0e0f
    # Versions from 0.25 on.
    if grep -q -- --aad "$tools/options"; then
        round "AES-GCM" --mechanism AES-GCM --id 05 --iv 000102030405060708090a0b --tag-bits-len 128
        round "AES-GCM with data" --mechanism AES-GCM --id 05 --iv 000102030405060708090a0b --aad 0102 \
            --tag-bits-len 96
    fi
    user "wrap" --wrap --mechanism AES-KEY-WRAP --id 05 --application-id 07 --output-file wrapped
    user "wrap with RSA" --wrap --mechanism RSA-PKCS --id 01 --application-id 07 --output-file wrapped
    user "unwrap with RSA" --unwrap --mechanism RSA-PKCS --id 01 --application-id 08 --key-type AES: \
        --application-label unwrapped --input-file wrapped
    for mechanism in SHA-1 SHA256 SHA512; do
        user "digest $mechanism" --hash --mechanism $mechanism --input-file data --output-file digest
        check "digest $mechanism: bytes" od -An -tx1 digest
    done
    user "data object" --write-object data --type data --label data --application-label suites
    user "read data object" --read-object --type data --label data
    user "delete" --delete-object --type secrkey --id 07
    p11 "wrong PIN" --login --pin 99999 --list-objects
    user "change of PIN" --change-pin --new-pin 567890
    objects "login with the new PIN" --login --pin 567890
}
