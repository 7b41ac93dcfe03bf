about="Java's provider SunPKCS11: services, AES, ECDH, signatures, key store"

prepare() {
    javac -d . "$suites/java/Suite.java"
}

suite() {
    cat >sun.cfg <<CONF
name = suites
library = $library
slotListIndex = $slot_index
attributes = compatibility
CONF
    java -XX:TieredStopAtLevel=1 -cp "$tools" Suite sun.cfg "$pin"
}
