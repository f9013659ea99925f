#!/bin/sh
# Stands in for the engine: shows its version, judges its configuration, listens, and reads its certificates when it
# starts and when it is told to, so that whoever answers for it knows which.
version=0.1.0
if [ "$1" = --version ]; then
    echo "engine $version"
    exit 0
fi
file=/etc/engine/daemon.json
validate=
for argument; do
    case $argument in
        --validate) validate=yes ;;
        /*) file=$argument ;;
    esac
done

place() {
    sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" "$file"
}

if [ -n "$validate" ]; then
    for key in tlscacert tlscert tlskey; do
        [ -s "$(place $key)" ] || { echo "Could not read the file $(place $key)" >&2; exit 1; }
    done
    echo configuration OK
    exit 0
fi

count=0
take_up() {
    count=$((count + 1))
    mkdir -m 700 "/run/engine.tls.$$.$count" || return
    for key in tlscacert tlscert tlskey; do
        cp "$(place $key)" "/run/engine.tls.$$.$count/$key" || return
    done
    ln -s "engine.tls.$$.$count" "/run/engine.tls.$$" && mv -fT "/run/engine.tls.$$" /run/engine.tls
}

take_up
echo $$ >/run/engine.pid
port=$(sed -n 's|.*tcp://0.0.0.0:\([0-9]*\)".*|\1|p' "$file")
child=
trap take_up HUP
trap 'rm -f /run/engine.pid; kill $child; exit 0' TERM
while :; do
    /bin/busybox nc -l -p "$port" </dev/null >/dev/null 2>&1 &
    child=$!
    while kill -0 $child 2>/dev/null; do wait $child; done
done
