# What `apply.sh` is made of. Standard output is the protocol: `step NAME running|changed|same|failed TEXT` and
# `note TEXT`; whatever commands say goes to standard error.

step() {
    printf 'step %s %s %s\n' "$1" "$2" "$3"
}

note() {
    printf 'note %s\n' "$1"
}

fail() {
    step "$1" failed "$2"
    exit 1
}

has() {
    command -v "$1" >/dev/null 2>&1
}

# Two at once would take each other's files away. The lock of one that was killed is broken.
take_lock() {
    waited=0
    until mkdir "$lock" 2>/dev/null; do
        owner=
        [ -r "$lock/owner" ] && read -r owner <"$lock/owner"
        if [ "$waited" -gt 0 ] && ! is_ours "$owner"; then
            rm -rf "$lock"
        elif [ "$waited" -ge 60 ]; then
            lock=
            fail lock "Another provisioning of this host is under way (process $owner)"
        else
            [ "$waited" -gt 0 ] || step lock running 'Waiting for another provisioning of this host'
            sleep 1
        fi
        waited=$((waited + 1))
    done
    echo $$ >"$lock/owner"
    for left in /run/machine-provision.[0-9]*; do
        [ "$left" = "$stage" ] || ! [ -d "$left" ] || is_ours "${left##*.}" || rm -rf "$left"
    done
}

is_ours() {
    [ -n "$1" ] && grep -q machine-provision "/proc/$1/cmdline" 2>/dev/null
}

leave() {
    rm -rf "$fresh"
    [ -z "$lock" ] || rm -rf "$lock"
}

# directory PATH MODE
directory() {
    [ -d "$1" ] || mkdir -m "$2" "$1" || fail directories "Could not make \`$1\`"
}

# put STAGED PATH STEP: at every moment there is the complete new file or the old one. What was unpacked has its owner and
# permissions already, and nobody but root could get at it.
put() {
    if [ -d "$2" ] && ! [ -L "$2" ]; then
        fail "$3" "\`$2\` is a folder"
    fi
    temporary=${2%/*}/.${2##*/}.machine-new
    if ! { cp -p "$stage/$1" "$temporary" && mv -f "$temporary" "$2"; }; then
        rm -f "$temporary"
        fail "$3" "Could not write \`$2\`"
    fi
    label "$2"
}

# Somebody else's file is kept beside ours, once.
keep_original() {
    if [ -f "$1" ] && ! [ -e "$1.before-machine" ]; then
        cp -p "$1" "$1.before-machine" && note "The previous \`$1\` is kept as \`$1.before-machine\`"
    fi
}

label() {
    if [ "$selinux" = yes ] && has restorecon; then restorecon -F "$1" >&2; fi
}

add_group() {
    if has groupadd; then groupadd -r docker >&2
    elif has addgroup; then addgroup -S docker >&2
    else return 1
    fi
}

# add_member USER
add_member() {
    if has usermod; then usermod -a -G docker "$1" >&2
    elif has gpasswd; then gpasswd -a "$1" docker >&2
    elif has addgroup; then addgroup "$1" docker >&2
    else return 1
    fi
}

# Waits until the engine listens, and shows the end of its log if it does not.
await_port() {
    tries=0
    until grep -q "^ *[0-9]*: [0-9A-F]*:$1 [0-9A-F]*:0000 0A" /proc/net/tcp /proc/net/tcp6 2>/dev/null; do
        [ "$tries" -lt 150 ] || return 1
        tries=$((tries + 1))
        sleep 0.2 2>/dev/null || { sleep 1; tries=$((tries + 4)); }
    done
}
