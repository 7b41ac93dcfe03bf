# modules.sh: the PKCS#11 modules, and how each gets a token.

# set_module: sets what depends on $module, or $reason if it cannot be had.
#   module_library      the file
#   module_environment  NAME=VALUE ...: how it finds the token in $work/token, which may be a copy of $work/pristine
#   daemon_library      the file that the daemon loads, if it is another one
#   daemon_options      what the daemon's processor says about the module
set_module() {
    daemon_library= daemon_options=
    case $module in
    softhsm)
        module_library=$(find /usr/lib /usr/local/lib -name libsofthsm2.so 2>/dev/null | head -n 1)
        module_environment=SOFTHSM2_CONF=$work/token/softhsm2.conf
        reason="libsofthsm2.so is missing; make suites-packages installs it"
        ;;
    kryoptic)
        reason="tests/support/build-kryoptic.sh failed"
        module_library=$("$project/tests/support/build-kryoptic.sh") || return 1
        module_environment=KRYOPTIC_CONF=$work/token/kryoptic.conf
        ;;
    nss)
        # NSS wants a string in pReserved of C_Initialize, which no application gives. The daemon does, with init_args;
        # without it nss-init.c does.
        module_library=$kept/libnss-init.so
        cc -std=c11 -Wall -Wextra -Werror -O1 -shared -fPIC -o "$module_library" "$suites/nss-init.c" -ldl
        softokn=$(find /usr/lib -name libsoftokn3.so 2>/dev/null | head -n 1)
        module_environment="NSS_INIT_MODULE=$softokn NSS_INIT_DIRECTORY=$work/token"
        daemon_library=$softokn
        daemon_options="module { alias = \"nss\"; init_args = \"configdir='sql:$work/token' certPrefix='' keyPrefix='' \
secmod='' flags=\" };"
        reason="libsoftokn3.so is missing; make suites-packages installs it"
        [ -n "$softokn" ] || return 1
        ;;
    *)
        reason="no such module in tests/suites/modules.sh"
        return 1
        ;;
    esac
    [ -n "$module_library" ]
}

# make_token: makes $work/pristine, with a token that has $label, $pin and $so_pin.
make_token() {
    rm -rf "$work/token" "$work/pristine"
    mkdir "$work/token"
    case $module in
    softhsm)
        mkdir "$work/token/tokens"
        printf '%s\n' "directories.tokendir = $work/token/tokens" "objectstore.backend = file" \
            "log.level = ERROR" "slots.removable = false" >"$work/token/softhsm2.conf"
        env "$module_environment" softhsm2-util --init-token --free --label "$label" --pin "$pin" --so-pin "$so_pin" ||
            return 1
        ;;
    kryoptic)
        printf '%s\n' '[[slots]]' 'slot = 42' 'dbtype = "sqlite"' "dbargs = \"$work/token/token.sql\"" \
            >"$work/token/kryoptic.conf"
        env "$module_environment" pkcs11-tool --module "$module_library" --init-token --label "$label" \
            --so-pin "$so_pin" &&
            env "$module_environment" pkcs11-tool --module "$module_library" --login --login-type so \
                --so-pin "$so_pin" --init-pin --pin "$pin" || return 1
        ;;
    nss)
        # Its second slot has the key database, whose token has no label of ours and no security officer's PIN.
        label="NSS Certificate DB" slot_index=1
        echo "$pin" >"$work/token/pin"
        certutil -N -d "sql:$work/token" -f "$work/token/pin" || return 1
        ;;
    esac
    mv "$work/token" "$work/pristine"
}
