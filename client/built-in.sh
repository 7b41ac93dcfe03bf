#!/bin/sh
# built-in.sh LIBRARY [COMMAND...]: checks what the variables of the Makefile have compiled into LIBRARY, such as
# libp11client.so or libp11clienttcp.so, and runs COMMAND, which is cargo, with it. Without COMMAND it prints a checksum
# of it, so that make knows when it has changed. `built-in.sh -libraries` prints the names of all libraries.
#
# The variables come by the environment: CLIENT_SOCKET and the like, LIBNAMES, CLIENT_TLS_CA and the like, and
# SSL_CLIENTFILES and SSL_SERVERCERTS, which are options of Caml Crush's configure; docs/install.md describes them. All
# become the variables that client/settings/built_in.rs reads. A value that cannot be used ends this with a sentence and
# status 2. Nothing is written.
set -euf
export LC_ALL=C

refuse() {
    printf '%s\n' "$*" >&2
    exit 2
}

# What somebody wrote, for a message.
shown() {
    printf '"%s"' "$(printf %s "$1" | tr -c '[:print:]' '?' | cut -c 1-100)"
}

# plain VARIABLE VALUE [MORE]: only what addresses, paths and lists of them need. So nothing has to be quoted anywhere.
odd='*[!][A-Za-z0-9/._:,;=+@%~-]*'
plain() {
    # shellcheck disable=SC2254 # a pattern
    case $2 in
    $odd) refuse "$1: only letters, digits and / . _ - : , ; = + @ % ~ [ ] can be in it, not $(shown "$2")" ;;
    esac
}

# host_port VARIABLE VALUE
host_port() {
    wrong="$1: expected HOST:PORT or [IPv6 ADDRESS]:PORT, not $(shown "$2")"
    case $2 in
    \[?*\]:*) host=${2#\[} host=${host%\]:*} inside='*[!0-9A-Fa-f:.%a-z]*' ;;
    *:*:*) refuse "$wrong" ;;
    ?*:*) host=${2%:*} inside='*[!A-Za-z0-9._-]*' ;;
    *) refuse "$wrong" ;;
    esac
    # shellcheck disable=SC2254 # a pattern
    case $host in
    $inside) refuse "$wrong" ;;
    esac
    port=${2##*:}
    case $port in
    '' | *[!0-9]* | ??????*) port=0 ;;
    esac
    if [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; then
        refuse "$1: expected a port between 1 and 65535 at the end, not $(shown "$2")"
    fi
}

# absolute VARIABLE PATH
absolute() {
    case $2 in
    */) refuse "$1: expected a file, not the directory $(shown "$2")" ;;
    /*) ;;
    *) refuse "$1: expected an absolute path, which begins with /, not $(shown "$2")" ;;
    esac
}

# socket_path VARIABLE PATH
socket_path() {
    absolute "$1" "$2"
    [ "${#2}" -le 107 ] || refuse "$1: the path of a Unix socket may have at most 107 bytes, not ${#2}"
}

# endpoint VARIABLE VALUE: as the library reads it, client/settings/endpoint.rs.
endpoint() {
    case $2 in
    tls:/*) socket_path "$1" "${2#tls:}" ;;
    tls:*) host_port "$1" "${2#tls:}" ;;
    tcp:*) host_port "$1" "${2#tcp:}" ;;
    unix:*) socket_path "$1" "${2#unix:}" ;;
    /*) socket_path "$1" "$2" ;;
    *) host_port "$1" "$2" ;;
    esac
}

# text_file VARIABLE FILE: a file that can be compiled in.
text_file() {
    [ -e "$2" ] || refuse "$1: there is no file $(shown "$2")"
    [ -f "$2" ] || refuse "$1: $(shown "$2") is not a file"
    [ -r "$2" ] || refuse "$1: the file $(shown "$2") cannot be read"
    [ "$(wc -c <"$2")" -le 1048576 ] || refuse "$1: the file $(shown "$2") is longer than 1 MiB"
    [ "$(tr -d '\11\12\15\40-\176' <"$2" | wc -c)" -eq 0 ] ||
        refuse "$1: expected PEM, which is plain ASCII; the file $(shown "$2") has other bytes"
    command -v openssl >/dev/null || refuse "$1: the program openssl is needed to check the file $(shown "$2")"
}

# certificates VARIABLE FILE: prints the certificates of a file, without what is between them.
certificates() {
    text_file "$1" "$2"
    begin='-----BEGIN CERTIFICATE-----' end='-----END CERTIFICATE-----'
    count=$(grep -c -e "^$begin" "$2") || refuse "$1: the file $(shown "$2") has no certificate in PEM"
    number=0
    while [ "$number" -lt "$count" ]; do
        number=$((number + 1))
        block=$(tr -d '\r' <"$2" | awk -v begin="$begin" -v end="$end" -v wanted="$number" '
            index($0, begin) == 1 { number++ }
            number == wanted { print }
            number == wanted && index($0, end) == 1 { exit }')
        printf '%s\n' "$block" | openssl x509 -noout >/dev/null 2>&1 ||
            refuse "$1: certificate $number of $count in the file $(shown "$2") cannot be read"
        printf '%s\n' "$block"
    done
}

# certificates_below VARIABLE FILE_OR_DIRECTORY: of a directory *.pem, then *.crt.
certificates_below() {
    [ -d "$2" ] || { certificates "$1" "$2"; return; }
    set +f
    found=
    for file in "$2"/*.pem "$2"/*.crt; do
        [ -e "$file" ] || continue
        certificates "$1" "$file" || exit
        found=yes
    done
    [ -n "$found" ] || refuse "$1: the directory $(shown "$2") has neither *.pem nor *.crt"
}

# private_key VARIABLE FILE: prints the key.
private_key() {
    text_file "$1" "$2"
    grep -q -e '^-----BEGIN .*PRIVATE KEY-----' "$2" ||
        refuse "$1: the file $(shown "$2") has no private key in PEM"
    ! grep -q ENCRYPTED "$2" ||
        refuse "$1: the private key in $(shown "$2") is encrypted; the library asks nobody for a password"
    openssl pkey -in "$2" -noout -passin pass: >/dev/null 2>&1 ||
        refuse "$1: the private key in $(shown "$2") cannot be read"
    tr -d '\r' <"$2" | sed -n '/^-----BEGIN .*PRIVATE KEY-----/,/^-----END .*PRIVATE KEY-----/p'
}

# item VARIABLE KEYS KEY: the file of KEY in the list behind the ; of VARIABLE's value. KEYS says what the list looks like.
item() {
    eval "list=\${$1#*;}"
    found=
    IFS=,
    for field in $list; do
        case $field in
        "$3="?*) [ -z "$found" ] || refuse "$1: $3= is there twice"; found=${field#*=} ;;
        esac
        case ",$2," in
        *",${field%%=*}=FILE,"*) ;;
        *) refuse "$1: expected $2 behind the semicolon, not $(shown "$field")" ;;
        esac
    done
    unset IFS
    [ -n "$found" ] || refuse "$1: expected $2 behind the semicolon; $3= is missing"
    printf %s "$found"
}

# Splits LIBNAMES, one name a line.
names() {
    case ,$LIBNAMES, in
    ,,) return ;;
    *,,*) refuse "LIBNAMES: a name is missing in $(shown "$LIBNAMES")" ;;
    esac
    seen=,
    IFS=' ,'
    for name in $LIBNAMES; do
        case $name in
        *[!A-Za-z0-9._-]* | [.-]*)
            refuse "LIBNAMES: a name is made of letters, digits and . _ - and begins with none of . and -, unlike $(shown "$name")"
            ;;
        tcp | tcpssl | unix) refuse "LIBNAMES: libp11client$name.so is a library of its own; choose another name than $name" ;;
        esac
        [ "${#name}" -le 100 ] || refuse "LIBNAMES: a name may have at most 100 bytes, not ${#name}"
        case $seen in
        *",$name,"*) refuse "LIBNAMES: $name is there twice" ;;
        esac
        seen=$seen$name,
        printf '%s\n' "$name"
    done
    [ "$seen" != , ] || refuse "LIBNAMES: expected names, separated by commas or blanks, not $(shown "$LIBNAMES")"
}

: "${CLIENT_SOCKET=}" "${CLIENT_TCP_SOCKET=}" "${CLIENT_TCPSSL_SOCKET=}" "${CLIENT_UNIX_SOCKET=}" "${LIBNAMES=}"
: "${CLIENT_TLS_CA=}" "${CLIENT_TLS_CERT=}" "${CLIENT_TLS_KEY=}" "${CLIENT_TLS_PINNED=}" "${CLIENT_TLS_EMBED=}"
: "${SSL_CLIENTFILES=}" "${SSL_SERVERCERTS=}"

list=$(names)
case ${1-} in
-libraries)
    for name in '' tcp tcpssl unix $list; do
        printf 'libp11client%s.so\n' "$name"
    done
    exit
    ;;
libp11client*.so) library=${1#libp11client} library=${library%.so} ;;
*) refuse "usage: built-in.sh LIBRARY [COMMAND...]" ;;
esac
shift

for variable in CLIENT_SOCKET CLIENT_TCP_SOCKET CLIENT_TCPSSL_SOCKET CLIENT_UNIX_SOCKET CLIENT_TLS_CA CLIENT_TLS_CERT \
    CLIENT_TLS_KEY CLIENT_TLS_PINNED SSL_CLIENTFILES SSL_SERVERCERTS; do
    eval "plain $variable \"\$$variable\""
done

# Which files, whether their contents are compiled in, and which variables name them.
ca=$CLIENT_TLS_CA ca_by=CLIENT_TLS_CA
cert=$CLIENT_TLS_CERT cert_by=CLIENT_TLS_CERT
key=$CLIENT_TLS_KEY key_by=CLIENT_TLS_KEY
pinned=$CLIENT_TLS_PINNED pinned_by=CLIENT_TLS_PINNED
case $CLIENT_TLS_EMBED in
'' | 1) embed=$CLIENT_TLS_EMBED embed_pinned=$CLIENT_TLS_EMBED ;;
*) refuse "CLIENT_TLS_EMBED: expected 1, or nothing, not $(shown "$CLIENT_TLS_EMBED")" ;;
esac
[ -z "$embed" ] || [ -n "$ca$cert$key$pinned" ] ||
    refuse "CLIENT_TLS_EMBED: there is no file to compile in; expected CLIENT_TLS_CA, CLIENT_TLS_CERT and CLIENT_TLS_KEY"

if [ -n "$SSL_CLIENTFILES" ]; then
    [ -z "$ca$cert$key$embed" ] ||
        refuse "SSL_CLIENTFILES cannot be combined with CLIENT_TLS_CA, CLIENT_TLS_CERT, CLIENT_TLS_KEY or CLIENT_TLS_EMBED"
    case $SSL_CLIENTFILES in
    env) ;;
    path\;* | embed\;*)
        [ "${SSL_CLIENTFILES%%;*}" = path ] || embed=1
        keys=ca=FILE,cert=FILE,privkey=FILE
        ca=$(item SSL_CLIENTFILES "$keys" ca)
        cert=$(item SSL_CLIENTFILES "$keys" cert)
        key=$(item SSL_CLIENTFILES "$keys" privkey)
        ca_by=SSL_CLIENTFILES cert_by=SSL_CLIENTFILES key_by=SSL_CLIENTFILES
        ;;
    *)
        refuse "SSL_CLIENTFILES: expected 'env', 'path;ca=FILE,cert=FILE,privkey=FILE' or 'embed;...'," \
            "not $(shown "$SSL_CLIENTFILES")"
        ;;
    esac
fi
if [ -n "$SSL_SERVERCERTS" ]; then
    [ -z "$pinned" ] || refuse "SSL_SERVERCERTS cannot be combined with CLIENT_TLS_PINNED"
    case $SSL_SERVERCERTS in
    embed\;*) pinned=$(item SSL_SERVERCERTS certs=FILE certs) pinned_by=SSL_SERVERCERTS embed_pinned=1 ;;
    *) refuse "SSL_SERVERCERTS: expected 'embed;certs=FILE' or 'embed;certs=DIRECTORY', not $(shown "$SSL_SERVERCERTS")" ;;
    esac
fi

# The endpoint and transport of each library. With an option of configure for TLS, and with tcp, or unix, in front of
# the endpoint, libp11client.so and those of LIBNAMES have a fixed transport, as Caml Crush's have.
is_tls=$ca$cert$key$pinned$SSL_CLIENTFILES
fixed=
case $CLIENT_SOCKET in
tcp,*) socket=${CLIENT_SOCKET#tcp,} fixed=tcp; host_port CLIENT_SOCKET "$socket" ;;
unix,*) socket=${CLIENT_SOCKET#unix,} fixed=unix; socket_path CLIENT_SOCKET "$socket" ;;
*,*) refuse "CLIENT_SOCKET: expected tcp,HOST:PORT or unix,PATH, not $(shown "$CLIENT_SOCKET")" ;;
'') refuse "CLIENT_SOCKET: expected tcp,HOST:PORT, unix,PATH, HOST:PORT or a path; it is empty" ;;
*) socket=$CLIENT_SOCKET; endpoint CLIENT_SOCKET "$socket" ;;
esac
if [ -n "$SSL_CLIENTFILES$SSL_SERVERCERTS" ] || [ -n "$fixed" ] && [ -n "$is_tls" ]; then
    case $socket in
    tcp:* | unix:*) refuse "CLIENT_SOCKET: $socket requires a plain connection, but SSL_CLIENTFILES and SSL_SERVERCERTS require TLS" ;;
    esac
    fixed=tcpssl
fi
tcp=${CLIENT_TCP_SOCKET:-127.0.0.1:4444}
tcpssl=${CLIENT_TCPSSL_SOCKET:-$tcp}
unix=${CLIENT_UNIX_SOCKET:-/var/run/pkcs11proxyd.socket}
host_port CLIENT_TCP_SOCKET "${tcp#tcp:}"
case $tcpssl in
tcp:* | unix:*) refuse "CLIENT_TCPSSL_SOCKET: $tcpssl requires a plain connection, but this library speaks TLS" ;;
esac
endpoint CLIENT_TCPSSL_SOCKET "$tcpssl"
socket_path CLIENT_UNIX_SOCKET "${unix#unix:}"

# contents VARIABLE FILE EMBED READER: the file's path, or with EMBED what READER finds in it.
contents() {
    if [ -z "$2" ]; then
        return
    elif [ -z "$3" ]; then
        absolute "$1" "$2"
        printf %s "$2"
    else
        "$4" "$1" "$2"
    fi
}

ca_text=$(contents "$ca_by" "$ca" "$embed" certificates)
cert_text=$(contents "$cert_by" "$cert" "$embed" certificates)
key_text=$(contents "$key_by" "$key" "$embed" private_key)
pinned_text=$(contents "$pinned_by" "$pinned" "$embed_pinned" certificates_below)
if [ -n "$embed" ] && [ -n "$cert" ] && [ -n "$key" ]; then
    of_cert=$(printf '%s\n' "$cert_text" | openssl x509 -noout -pubkey)
    of_key=$(printf '%s\n' "$key_text" | openssl pkey -pubout)
    [ "$of_cert" = "$of_key" ] || refuse "$key_by: the private key $(shown "$key") does not belong to the certificate $(shown "$cert")"
fi
# fits VARIABLE FILE TEXT: the kernel passes no much longer variable to a program.
fits() {
    [ "${#3}" -le 100000 ] || refuse "$1: $(shown "$2") has ${#3} bytes of PEM; at most 100000 can be compiled in"
}
fits "$ca_by" "$ca" "$ca_text"
fits "$cert_by" "$cert" "$cert_text"
fits "$key_by" "$key" "$key_text"
fits "$pinned_by" "$pinned" "$pinned_text"

unset P11CLIENT_LIBNAME P11CLIENT_TRANSPORT
case $library in
tcp) socket=$tcp fixed=tcp ;;
tcpssl) socket=$tcpssl fixed=tcpssl ;;
unix) socket=$unix fixed=unix ;;
?*)
    case "
$list
" in
    *"
$library
"*) export P11CLIENT_LIBNAME="$library" ;;
    *) refuse "LIBNAMES does not name libp11client$library.so" ;;
    esac
    ;;
esac
# A library that never speaks TLS keeps no key.
[ "$fixed" != unix ] || ca_text='' cert_text='' key_text='' pinned_text=''
[ -z "$fixed" ] || export P11CLIENT_TRANSPORT="$fixed"
export P11CLIENT_SOCKET="$socket" P11CLIENT_TLS_CA="$ca_text" P11CLIENT_TLS_CERT="$cert_text" \
    P11CLIENT_TLS_KEY="$key_text" P11CLIENT_TLS_PINNED="$pinned_text"

if [ $# -eq 0 ]; then
    printf '%s\n' "$socket" "$fixed" "$ca_text" "$cert_text" "$key_text" "$pinned_text" | sha256sum
else
    set +f
    exec "$@"
fi
