about="Java's SunPKCS11: keytool, jarsigner, a TLS server"
transport=tls
lives=long
signs=2

prepare() {
    javac -d . "$applications/java/Serve.java"
}

key_store() {
    program=$1
    shift
    "$program" -J-XX:TieredStopAtLevel=1 "$@" -keystore NONE -storetype PKCS11 -storepass "$pin" \
        -providerClass sun.security.pkcs11.SunPKCS11 -providerArg sun.cfg
}
lists() {
    key_store keytool -list >listed && contains listed "rsa, PrivateKeyEntry" && contains listed "ec, PrivateKeyEntry"
}
# A signed request for a certificate, of a pair of keys that Java makes on the token.
new_key() {
    key_store keytool -genkeypair -keyalg EC -groupname secp256r1 -alias made -dname CN=made &&
        key_store keytool -certreq -alias made -file made.csr && openssl req -in made.csr -verify -noout
}
signs_jar() {
    echo "what an application signs" >file && jar --create --file a.jar file &&
        key_store jarsigner -signedjar signed.jar -sigfile RSA a.jar rsa &&
        jar --extract --file signed.jar META-INF/RSA.RSA META-INF/RSA.SF &&
        openssl smime -verify -inform DER -in META-INF/RSA.RSA -content META-INF/RSA.SF -purpose any \
            -CAfile "$public/ca.pem" -out /dev/null
}
operation() {
    handshake "$port" ec -tls1_3 && handshake "$port" ec -tls1_2
}

application() {
    cat >sun.cfg <<CONF
name = applications
library = $library
slotListIndex = 0
attributes = compatibility
CONF
    step "keytool -list" lists
    step "keytool makes a key" new_key
    step "jarsigner" signs_jar
    port=$(free_port)
    serve "$port" java -XX:TieredStopAtLevel=1 -cp "$tools" Serve sun.cfg "$pin" ec "$port"
    step "handshakes" operation
    load operation 4 15
}
