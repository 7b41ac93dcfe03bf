about="OpenSSH: ssh-keygen -D, ssh-agent with ssh-add -s, logins to an sshd"
transport=unix
lives=long
signs=1

public_keys() {
    ssh-keygen -D "$library" | cut -d ' ' -f 1,2 | sort >keys &&
        for key in rsa ec; do ssh-keygen -i -m PKCS8 -f "$public/$key.pub"; done | cut -d ' ' -f 1,2 | sort >expected &&
        cmp keys expected
}
add() {
    printf '#!/bin/sh\necho %s\n' "$pin" >askpass && chmod +x askpass &&
        SSH_ASKPASS="$PWD/askpass" SSH_ASKPASS_REQUIRE=force ssh-add -s "$library" &&
        ssh-add -L | cut -d ' ' -f 1,2 | sort | cmp - expected
}
ssh_to() {
    ssh -F none -p "$port" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PasswordAuthentication=no \
        -o ConnectTimeout=20 -o LogLevel=ERROR "$@" 127.0.0.1 echo logged in
}
login() {
    ssh_to >"login.${loader:-0}" && contains "login.${loader:-0}" "logged in"
}
login_without_agent() {
    SSH_AUTH_SOCK='' SSH_ASKPASS="$PWD/askpass" SSH_ASKPASS_REQUIRE=force \
        ssh_to -o "PKCS11Provider=$library" >login && contains login "logged in"
}
# Only the token's keys open the door.
stranger() {
    ssh-keygen -q -t ed25519 -N '' -f stranger &&
        ! SSH_AUTH_SOCK='' ssh_to -o IdentitiesOnly=yes -i stranger
}
# A signature of a file; ssh-keygen verifies it with the public key only.
signs() {
    echo "what an application signs" >data && head -n 1 expected >sign.pub && rm -f data.sig &&
        ssh-keygen -q -Y sign -n file -f sign.pub data && sed 's/^/user /' sign.pub >signers &&
        SSH_AUTH_SOCK='' ssh-keygen -Y verify -n file -f signers -I user -s data.sig <data
}

application() {
    step "public keys" public_keys
    port=$(free_port)
    ssh-keygen -q -t ed25519 -N '' -f host
    cp expected authorized
    # sshd of root wants this directory, which the system's service would make.
    [ "$(id -u)" -ne 0 ] || [ -d /run/sshd ] || mkdir -m 755 /run/sshd
    printf '%s\n' "ListenAddress 127.0.0.1:$port" "HostKey $PWD/host" "AuthorizedKeysFile $PWD/authorized" \
        "PidFile none" "StrictModes no" "UsePAM no" "PasswordAuthentication no" "PermitRootLogin yes" \
        "MaxStartups 100" >sshd_config
    serve "$port" /usr/sbin/sshd -D -e -f "$PWD/sshd_config"
    # -P: the agent loads libraries of the system's directories only, unless others are named.
    export SSH_AUTH_SOCK="$PWD/agent"
    serve "$PWD/agent" ssh-agent -D -a "$PWD/agent" -P "$(realpath "$library")"
    step "ssh-add -s" add
    step "login with the agent" login
    step "login without it" login_without_agent
    step "another key is refused" stranger
    step "signature of a file" signs
    load login 3 10
    step "ssh-add -e" ssh-add -e "$library"
}
