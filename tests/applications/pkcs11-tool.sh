about="OpenSC's pkcs11-tool: lists, makes keys, signs, decrypts"
transport=tcp

tool() {
    pkcs11-tool --module "$library" --token-label "$label" "$@"
}
user() {
    tool --login --pin "$pin" "$@"
}
# What it prints of the token, without its handles and in any order.
objects() {
    user --list-objects | sed -E 's/^(.* Object) [0-9]+/\1/' | sort >objects &&
        contains objects "Private Key Object; RSA" && contains objects "Private Key Object; EC"
}
# SoftHSM signs with ECDSA what was hashed outside.
signs() {
    user --sign --mechanism "$2" --id "$3" --input-file "$4" --output-file signature --signature-format openssl &&
        verify_signature "$1" data signature
}
decrypts() {
    openssl pkeyutl -encrypt -pubin -inkey "$public/rsa.pub" -pkeyopt rsa_padding_mode:oaep -in data -out encrypted &&
        user --decrypt --mechanism RSA-PKCS-OAEP --hash-algorithm SHA-1 --mgf MGF1-SHA1 --id 01 \
            --input-file encrypted --output-file decrypted &&
        cmp data decrypted
}
new_key() {
    user --keypairgen --key-type EC:prime256v1 --id 10 --label new --usage-sign &&
        user --read-object --type pubkey --id 10 --output-file new.der &&
        user --sign --mechanism ECDSA --id 10 --input-file digest --output-file signature \
            --signature-format openssl &&
        openssl dgst -sha256 -verify new.der -keyform DER -signature signature data
}
# The same lines on the module itself.
same() {
    tool "$@" >through
    (export SOFTHSM2_CONF="$work/token/softhsm2.conf" && library=$module && tool "$@" >direct)
    cmp through direct
}
wrong_pin() {
    ! tool --login --pin 9999 --list-objects >output.wrong 2>&1 && contains output.wrong CKR_PIN_INCORRECT &&
        calls_are 1 "C_Login 0xa0 "
}

application() {
    echo "what an application signs" >data
    openssl dgst -sha256 -binary -out digest data
    step "lists objects" objects
    step "the mechanisms are those of the module" same --list-mechanisms
    step "the slots are those of the module" same --list-slots
    step "RSA signature" signs rsa SHA256-RSA-PKCS 01 data
    step "ECDSA signature" signs ec ECDSA 02 digest
    step "OAEP decryption" decrypts
    step "new key" new_key
    step "each was signed once" calls_are 3 "C_Sign"
    step "and decrypted once" calls_are 1 "C_Decrypt"
    step "a wrong PIN is refused" wrong_pin
}
