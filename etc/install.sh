#!/bin/sh
# install.sh install|uninstall [units]: puts all files of this project, or only the systemd units, where they belong, or
# removes them again. `make install` and `make uninstall` call it with their variables in the environment: DESTDIR,
# PREFIX and the directories that docs/install.md describes, BUILT, where the programs and libraries are, LIBRARIES, the
# libraries' names, MAN_PAGES, the directory of the man pages, and INSTALL, the program.
#
# all_files lists what there is, for both. Configuration that exists is kept, and what a site has changed is not removed.
set -eu
umask 022

refuse() {
    printf '%s\n' "$*" >&2
    exit 2
}

action=${1-}
case $action,${2-} in
install, | uninstall, | install,units | uninstall,units) ;;
*) refuse "usage: install.sh install|uninstall [units]" ;;
esac

# Paths become lines of units and scripts, where other characters would have to be quoted, each time in another way.
for variable in PREFIX BINDIR LIBDIR SYSCONFDIR MANDIR DOCDIR P11_KIT SYSTEMD SYSUSERS TMPFILES LOGROTATE INITD; do
    value=
    eval "value=\$$variable"
    case $value in
    *[!A-Za-z0-9/._+@~:-]*) refuse "$variable: a directory can have only letters, digits and / . _ + @ ~ : - in it" ;;
    '') case $variable in
        BINDIR | LIBDIR | SYSCONFDIR) refuse "$variable: expected a directory; it is empty" ;;
        esac ;;
    /*) ;;
    *) refuse "$variable: expected an absolute path, which begins with /, not \"$value\"" ;;
    esac
done

adapted=$(mktemp)
trap 'rm -f "$adapted"' EXIT
trap 'exit 1' HUP INT TERM

# make_directory DIRECTORY: one that is there keeps its mode.
make_directory() {
    [ -d "$1" ] || mkdir -p "$1"
}

# Whether an empty directory goes: those of our own, all below DESTDIR, and all of a prefix that is not the system's.
may_go() {
    case $1 in
    */pkcs11proxyd | */pkcs11proxyd/*) return 0 ;;
    esac
    if [ -n "$DESTDIR" ]; then
        case $1 in
        "$DESTDIR"?*) return 0 ;;
        esac
    else
        case ${PREFIX%/},$1 in
        /usr,* | /usr/local,* | ,*) return 1 ;;
        *",${PREFIX%/}" | *",${PREFIX%/}"/*) return 0 ;;
        esac
    fi
    return 1
}

# remove FILE: with the directories that are empty then.
remove() {
    rm -f "$DESTDIR$1"
    directory=$DESTDIR${1%/*}
    while may_go "$directory" && rmdir "$directory" 2>/dev/null; do
        directory=${directory%/*}
    done
}

# file MODE SOURCE DESTINATION
file() {
    if [ "$action" = install ]; then
        make_directory "$DESTDIR${3%/*}"
        "$INSTALL" -m "$1" "$2" "$DESTDIR$3"
    else
        remove "$3"
    fi
}

# adapted MODE SOURCE DESTINATION: with the directories where things are installed.
adapted() {
    if [ "$action" = install ]; then
        sed -e "s|/usr/bin/pkcs11proxyd|$BINDIR/pkcs11proxyd|g" -e "s|/etc/pkcs11proxyd|$SYSCONFDIR/pkcs11proxyd|g" \
            -e "s|/etc/default/|$SYSCONFDIR/default/|g" -e "s|^module: .*|module: $LIBDIR/libp11client.so|" "$2" >"$adapted"
        file "$1" "$adapted" "$3"
    else
        remove "$3"
    fi
}

# configuration MODE SOURCE DESTINATION
configuration() {
    if [ ! -e "$DESTDIR$3" ] && [ ! -L "$DESTDIR$3" ]; then
        [ "$action" = uninstall ] || file "$1" "$2" "$3"
    elif cmp -s "$2" "$DESTDIR$3"; then
        [ "$action" = install ] || remove "$3"
    elif [ "$action" = install ]; then
        echo "kept: $DESTDIR$3"
    else
        echo "left, because it was changed: $DESTDIR$3"
    fi
}

units() {
    [ -n "$SYSTEMD" ] || return 0
    for unit in pkcs11proxyd.service pkcs11proxyd-unprivileged.service pkcs11proxyd.socket; do
        adapted 644 "etc/$unit" "$SYSTEMD/$unit"
    done
}

documentation() {
    for page in README.md ARCHITECTURE.md CHANGELOG.md DIFFERENCES.md SECURITY.md LICENSE $(find docs -name '*.md'); do
        file 644 "$page" "$DOCDIR/$page"
    done
    for example in client.conf filter.conf filter-strict.conf pkcs11proxyd.conf tls-trial.conf haproxy.cfg \
        prometheus-alerts.yml grafana-dashboard.json; do
        file 644 "etc/$example" "$DOCDIR/examples/$example"
    done
}

programs="pkcs11proxyd pkcs11proxyctl p11client-doctor"

all_files() {
    for program in $programs; do
        file 755 "$BUILT/$program" "$BINDIR/$program"
    done
    for library in $LIBRARIES; do
        file 644 "$BUILT/$library" "$LIBDIR/$library"
    done
    for name in pkcs11proxyd.conf filter.conf filter-strict.conf; do
        configuration 640 "etc/$name" "$SYSCONFDIR/pkcs11proxyd/$name"
    done
    units
    [ -z "$SYSUSERS" ] || file 644 etc/pkcs11proxyd.sysusers "$SYSUSERS/pkcs11proxyd.conf"
    [ -z "$TMPFILES" ] || file 644 etc/pkcs11proxyd.tmpfiles "$TMPFILES/pkcs11proxyd.conf"
    [ -z "$LOGROTATE" ] || configuration 644 etc/pkcs11proxyd.logrotate "$LOGROTATE/pkcs11proxyd"
    [ -z "$INITD" ] || adapted 755 etc/pkcs11proxyd.init "$INITD/pkcs11proxyd"
    [ -z "$P11_KIT" ] || adapted 644 etc/libp11client.module "$P11_KIT/libp11client.module"
    [ -z "$DOCDIR" ] || documentation
    if [ -n "$MANDIR" ]; then
        for page in manual/pages/*.[1-8].txt; do
            page=${page##*/} page=${page%.txt}
            [ "$page" != '*.[1-8]' ] || continue
            if [ "$action" = uninstall ] || [ -e "$MAN_PAGES/$page" ]; then
                file 644 "$MAN_PAGES/$page" "$MANDIR/man${page##*.}/$page"
            else
                echo "not installed, because \`make man\` has not made it: $page"
            fi
        done
    fi
}

if [ "$action,${2-}" = install, ]; then
    for name in $programs $LIBRARIES; do
        [ -e "$BUILT/$name" ] || refuse "there is no $BUILT/$name; run make first, with the same variables"
    done
fi
"${2:-all_files}"
