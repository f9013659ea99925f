# Gives a host an SSH host key that it made itself, in two runs. The first makes the key beside the old one and tells its
# public half; the second, after that has been written down, puts it in place. Either may be killed and run again. It comes
# on the standard input of `/bin/sh -s`, as root; `src/provision/host_key.rs` reads the answer.

host_key() {
    umask 077
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
    key=
    if program=$(command -v sshd); then
        key=$("$program" -T 2>/dev/null | sed -n 's/^hostkey \(.*ed25519.*\)$/\1/p' | head -n 1)
    fi
    [ -n "$key" ] || key=/etc/ssh/ssh_host_ed25519_key
    new=${key%/*}/.machine_host_ed25519_key
{%- if place %}
    if [ -f "$new" ]; then
        # A private key without its public half is a good key; one with another's is none.
        rm -f "$key.pub" && mv -f "$new" "$key" && chmod 0600 "$key" && mv -f "$new.pub" "$key.pub" &&
            chmod 0644 "$key.pub" || return 1
        if command -v restorecon >/dev/null 2>&1; then restorecon "$key" "$key.pub" 2>/dev/null; fi
        sync "$key" "${key%/*}" 2>/dev/null || sync
    fi
    pid=
    for file in /run/sshd.pid /var/run/sshd.pid; do
        [ -n "$pid" ] || { [ ! -r "$file" ] || read -r pid <"$file"; }
    done
    # Connections that are open stay open.
    if [ -z "$pid" ] || ! kill -HUP "$pid" 2>/dev/null; then
        if [ -d /run/systemd/system ]; then
            systemctl reload ssh.service 2>/dev/null || systemctl reload sshd.service 2>/dev/null
        elif command -v rc-service >/dev/null 2>&1; then
            rc-service sshd reload >&2
        fi
    fi
    echo host-key=placed
{%- else %}
    if [ ! -f "$new" ]; then
        rm -f "$new.pub"
        ssh-keygen -q -t ed25519 -N '' -C '' -f "$new" >&2 || return 1
    fi
    public=$(ssh-keygen -y -f "$new") || { rm -f "$new"; return 1; }
    printf '%s\n' "$public" >"$new.pub" || return 1
    printf 'host-key=%s\n' "$public"
{%- endif %}
}

host_key
