about="p11-kit with our .module file, and its proxy"
transport=tcp

# p11-kit reads the files of a user, but not those of root.
as_user() {
    if [ "$(id -u)" -ne 0 ]; then
        "$@"
    else
        setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
    fi
}
lists() {
    as_user p11-kit list-modules >modules && contains modules "$1" && contains modules "token: $label"
}
signs() {
    as_user pkcs11-tool --module "$proxy" --token-label "$label" --login --pin "$pin" --sign --mechanism SHA256-RSA-PKCS \
        --id 01 --input-file data --output-file made/signature &&
        verify_signature rsa data made/signature
}
# GnuTLS finds the token without being told of a library.
gnutls() {
    as_user env GNUTLS_PIN="$pin" p11tool --batch --login --list-all "$token" >all &&
        contains all "object=rsa;type=private" &&
        as_user env GNUTLS_PIN="$pin" p11tool --batch --login --test-sign "$token;object=ec;type=private"
}
without_daemon() {
    kill_daemon
    as_user p11-kit list-modules >modules && ! grep -F "token: $label" modules
}

application() {
    proxy=$(pkg-config --variable=proxy_module p11-kit-1)
    echo "what an application signs" >data
    mkdir -m 777 made
    chmod -R a+rwX "$work/token"
    # The module file of the user, with the path that make install would write.
    mkdir -p "$HOME/.config/pkcs11/modules"
    name=libp11client
    [ "$way" != direct ] || name=direct
    sed "s|^module:.*|module: $library|" "$project/etc/libp11client.module" >"$HOME/.config/pkcs11/modules/$name.module"
    step "p11-kit list-modules" lists "$name"
    step "p11-kit-proxy signs" signs
    step "GnuTLS finds the token" gnutls
    if [ "$way" != direct ]; then
        step "the others go on without our daemon" without_daemon
    fi
}
