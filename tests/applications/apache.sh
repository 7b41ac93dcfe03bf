about="Apache, prefork, with a graceful restart, by the engine of libp11"
transport=tcp
lives=long
signs=2
asks_again="where libp11's method for EVP_PKEY fails, OpenSSL tries that for RSA or EC"

operation() {
    handshake "$port" ec -tls1_3 && handshake "$port" ec -tls1_2
}
page() {
    curl --silent --show-error --cacert "$public/ca.pem" "https://localhost:$port/page" >got && contains got "from the token"
}
graceful() {
    kill -USR1 "$server"
    until_true 20 contains error.log "configured -- resuming normal operations"
    sleep 1
    [ "$(grep -c "resuming normal operations" error.log)" -ge 2 ] || { cat error.log; return 1; }
}

application() {
    port=$(free_port)
    openssl_engine
    mkdir htdocs
    echo "from the token" >htdocs/page
    modules=/usr/lib/apache2/modules
    cat >apache.conf <<CONF
ServerRoot $PWD
ServerName localhost
PidFile $PWD/apache.pid
Mutex file:$PWD default
DefaultRuntimeDir $PWD
ErrorLog $PWD/error.log
LogLevel info
LoadModule mpm_prefork_module $modules/mod_mpm_prefork.so
LoadModule authz_core_module $modules/mod_authz_core.so
LoadModule socache_shmcb_module $modules/mod_socache_shmcb.so
LoadModule ssl_module $modules/mod_ssl.so
StartServers 3
MinSpareServers 2
MaxRequestWorkers 6
Listen 127.0.0.1:$port
DocumentRoot $PWD/htdocs
SSLEngine on
SSLSessionCache none
SSLSessionTickets off
SSLCryptoDevice pkcs11
SSLCertificateFile $public/ec.pem
SSLCertificateKeyFile "$token;object=ec;type=private;pin-value=$pin"
CONF
    chmod -R a+rX "$PWD"
    serve "$port" /usr/sbin/apache2 -D FOREGROUND -f "$PWD/apache.conf"
    export OPENSSL_CONF=/dev/null
    step "handshakes" operation
    step "a page" page
    load operation 4 20
    step "graceful restart" graceful
    step "handshakes after it" operation
    load operation 4 20
}
