#!/bin/sh
# Moves the hosts of docker-machine to `machine`, in a copy, so that the old store stays as it is until you remove it.
#
#   examples/move-from-docker-machine.sh [OLD-STORE [NEW-STORE]]
#
# Nothing is changed on any host. `machine` also reads docker-machine's own store in place: this is for those who want to
# go back at any time.
set -eu

old=${1:-${MACHINE_STORAGE_PATH:-$HOME/.docker/machine}}
new=${2:-$HOME/.machine}

[ -d "$old/machines" ] || { echo "$old holds no hosts of docker-machine" >&2; exit 1; }
[ ! -e "$new" ] || { echo "$new is there already; name another folder" >&2; exit 1; }

umask 077
# Whole or not at all: the copy gets its name last.
part="$new.part-$$"
trap 'rm -rf "$part"' EXIT INT TERM
mkdir -p "$part"
cp -a "$old/machines" "$part/"
# Images of VMs are as large as they are; only certificates are taken along.
if [ -d "$old/certs" ]; then cp -a "$old/certs" "$part/"; fi
mv "$part" "$new"
trap - EXIT INT TERM

export MACHINE_STORAGE_PATH="$new"
echo "The hosts are in $new. From now on: export MACHINE_STORAGE_PATH=\"$new\""
for folder in "$new"/machines/*/; do
    [ -d "$folder" ] || continue
    host=$(basename "$folder")
    driver=$(machine inspect --format '{{.DriverName}}' "$host" 2>/dev/null) || driver=
    if [ -z "$driver" ]; then
        echo "$host: its record cannot be read; \`machine inspect $host\` says why"
    elif url=$(machine url "$host" 2>/dev/null); then
        echo "$host ($driver): $url"
        # The names must fit as well, so that the answer is that of a real connection.
        machine config --check "$host" >/dev/null 2>&1 ||
            echo "  does not answer over TLS now; \`machine config --check $host\` says why"
    else
        echo "$host ($driver): \`machine url $host\` says what is missing"
    fi
done
