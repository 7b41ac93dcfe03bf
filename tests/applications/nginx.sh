about="nginx with two workers and reloads, by the engine of libp11"
transport=unix
lives=long
signs=2
asks_again="where libp11's method for EVP_PKEY fails, OpenSSL tries that for RSA or EC"

operation() {
    handshake "$port" rsa -tls1_3 && handshake "$port" rsa -tls1_2
}
page() {
    curl --silent --show-error --cacert "$public/ca.pem" "https://localhost:$port/" >page && contains page "from the token"
}
workers() {
    cat "/proc/$server/task/$server/children"
}
# Its workers start anew, with the key loaded again in the master.
reload() {
    before=$(workers)
    kill -HUP "$server"
    until_true 20 reloaded || { echo "workers before: $before; now: $(workers)"; cat error.log; return 1; }
}
reloaded() {
    now=$(workers)
    # shellcheck disable=SC2086 # a list
    set -- $now
    [ $# -eq 2 ] || return 1
    for worker in $before; do
        case " $now " in *" $worker "*) return 1 ;; esac
    done
}

application() {
    port=$(free_port)
    openssl_engine
    mkdir -p logs
    cat >nginx.conf <<CONF
daemon off;
worker_processes 2;
pid $PWD/nginx.pid;
error_log $PWD/error.log info;
user $(id -un) $(id -gn);
env OPENSSL_CONF;
env PKCS11PROXY_CONF;
env SOFTHSM2_CONF;
ssl_engine pkcs11;
events { worker_connections 100; }
http {
    access_log off;
    client_body_temp_path $PWD/body; proxy_temp_path $PWD/proxy; fastcgi_temp_path $PWD/fastcgi;
    uwsgi_temp_path $PWD/uwsgi; scgi_temp_path $PWD/scgi;
    server {
        listen 127.0.0.1:$port ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache off;
        ssl_session_tickets off;
        ssl_certificate $public/rsa.pem;
        ssl_certificate_key "engine:pkcs11:$token;object=rsa;type=private;pin-value=$pin";
        location / { default_type text/plain; return 200 "from the token\n"; }
    }
}
CONF
    serve "$port" /usr/sbin/nginx -p "$PWD" -e "$PWD/error.log" -c "$PWD/nginx.conf"
    export OPENSSL_CONF=/dev/null
    step "handshakes" operation
    step "a page" page
    load operation 4 20
    step "reload" reload
    step "handshakes after the reload" operation
    [ -z "$recover" ] || step "the daemon is restarted" restart_daemon
    step "second reload" reload
    load operation 4 20
}
