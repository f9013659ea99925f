#!/bin/sh
# Makes true on a host what is not true yet: rendered for one host and one run, with only the steps that it needs.
# $1 is the folder into which the upload was unpacked. May be killed at any point and rendered and run again.
set -u
umask 077
export LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH

stage=$1
lock=/run/machine-provision.lock
pending=/run/machine-provision.pending
fresh=/usr/local/bin/.machine-new
selinux={% if selinux %}yes{% else %}no{% endif %}

{% include "shell/steps.sh" %}
{%- if service %}
control() {
{%- if init == "systemd" %}
    systemctl "$1" {{ service | plain }}.service >&2
{%- elif init == "openrc" %}
    rc-service {{ service | plain }} "$1" >&2
{%- else %}
    service {{ service | plain }} "$1" >&2
{%- endif %}
}

show_log() {
{%- if init == "systemd" %}
    journalctl -u {{ service | plain }}.service -n 20 --no-pager -o cat >&2
{%- else %}
    tail -n 20 /var/log/{{ service | plain }}.log >&2
{%- endif %}
}
{%- endif %}

trap leave EXIT
trap 'exit 129' HUP INT TERM
take_lock
rm -rf "$fresh"
{%- if install_url %}

add_fetcher() {
    if has apt-get; then apt-get -q update >&2 && apt-get -q install -y --no-install-recommends ca-certificates curl >&2
    elif has dnf; then dnf -q install -y curl >&2
    elif has yum; then yum -q install -y curl >&2
    elif has zypper; then zypper -n -q install curl >&2
    elif has apk; then apk add -q curl >&2
    elif has pacman; then pacman -Sy --noconfirm curl >&2
    else return 1
    fi
}

# The engine's own installer; what it says is passed on, so that nobody takes a long download for a dead connection.
step install running {{ install_text | sh }}
echo 'DPkg::Lock::Timeout "300";' >"$stage/apt.conf"
export APT_CONFIG="$stage/apt.conf"
{%- if install_sha256 %}
has curl || has wget || add_fetcher || fail install 'The host has neither `curl` nor `wget`, and no package of either'
if has curl; then
    curl -fsSL --retry 3 --connect-timeout 20 -o "$stage/install.sh" {{ install_url | sh }} >&2
else
    wget -q -O "$stage/install.sh" {{ install_url | sh }} >&2
fi || fail install {{ install_download_failed | sh }}
digest=$(sha256sum <"$stage/install.sh")
[ "${digest%% *}" = {{ install_sha256 | sh }} ] || fail install {{ install_differs | sh }}
{%- else %}
# Of the two, curl alone can be kept from following a redirection to where nothing is protected.
has curl || add_fetcher || fail install 'The host has no `curl`, and no package of it'
curl -fsSL --proto =https --retry 3 --connect-timeout 20 -o "$stage/install.sh" {{ install_url | sh }} >&2 ||
    fail install {{ install_download_failed | sh }}
{%- endif %}
[ -s "$stage/install.sh" ] || fail install {{ install_download_failed | sh }}
(umask 022; sh "$stage/install.sh" </dev/null 2>&1; echo $? >"$stage/install.status") |
    while IFS= read -r line; do
        printf 'log %s\n' "$line"
        printf '%s\n' "$line" >&2
    done
read -r status <"$stage/install.status"
[ "$status" = 0 ] || fail install "The installer ended with status $status"
has dockerd || fail install 'The installer ended without an error, but there is no `dockerd` now'
step install changed {{ install_done | sh }}
{%- endif %}
{%- if fill_in_dockerd %}

dockerd=$(command -v dockerd) || fail configuration 'There is no `dockerd`'
containerd=
if [ -S /run/containerd/containerd.sock ]{% if init == "systemd" %} || systemctl cat containerd.service >/dev/null 2>&1{% endif %}; then
    containerd=' --containerd=/run/containerd/containerd.sock'
fi
for file in "$stage"/*.template; do
    # A copy has the permissions of the upload, and keeps them when its content is replaced.
    cp -p "$file" "${file%.template}" &&
        sed "s|@DOCKERD@|$dockerd|; s|@CONTAINERD@|$containerd|" "$file" >"${file%.template}" ||
        fail configuration 'Could not write to `/run`'
done
{%- endif %}
{%- if engine %}

step engine running {{ engine.text | sh }}
directory /usr/local 755
directory /usr/local/bin 755
mkdir "$fresh" || fail engine 'Could not write to `/usr/local/bin`'
gzip -dc <"$stage/engine.gz" >"$fresh/engine" || fail engine 'Could not unpack the engine to `/usr/local/bin`'
digest=$(sha256sum <"$fresh/engine")
[ "${digest%% *}" = {{ engine.sha256 | sh }} ] || fail engine 'The engine arrived damaged'
chmod 0755 "$fresh/engine" || fail engine 'Could not make the engine executable'
"$fresh/engine" --version >/dev/null || fail engine 'The engine does not run on this host'
rm -f "$stage/engine.gz"
if [ -x /usr/local/bin/engine ]; then
    printf 'previous %s\n' "$(/usr/local/bin/engine --version 2>/dev/null)"
fi
{%- endif %}
{%- if validate == "engine" %}

# The new engine (or the one that is there) looks at the new files before they replace the old ones.
step configuration running 'Checking the configuration'
program=/usr/local/bin/engine
[ ! -x "$fresh/engine" ] || program=$fresh/engine
candidate=$stage/daemon.json
[ -f "$candidate" ] || candidate=/etc/engine/daemon.json
if [ -f "$candidate" ] && [ -x "$program" ]; then
    for file in ca.pem server.pem server-key.pem; do
        [ -f "$stage/$file" ] || cp "/etc/engine/tls/$file" "$stage/$file" ||
            fail configuration 'Could not write to `/run`'
    done
    sed "s|/etc/engine/tls/|$stage/|g" "$candidate" >"$stage/check.json" ||
        fail configuration 'Could not write to `/run`'
    "$program" daemon --validate --config-file "$stage/check.json" >&2 ||
        fail configuration 'The engine refused its configuration'
fi
{%- elif validate == "dockerd" %}

step configuration running 'Checking the configuration'
case $(dockerd --help 2>&1) in
    *--validate*)
        dockerd --validate --config-file "$stage/daemon.json" >&2 ||
            fail configuration 'The engine refused its configuration'
        ;;
esac
{%- endif %}
{%- if docker_group %}

add_group || fail group 'Could not add the group `docker`'
step group changed 'Group `docker` added'
{%- endif %}
{%- if member %}

if add_member {{ member | sh }}; then
    step member changed {{ member_done | sh }}
else
    note {{ member_failed | sh }}
fi
{%- endif %}
{%- if hostname %}

{% if init == "systemd" -%}
if ! { has hostnamectl && hostnamectl set-hostname {{ hostname | sh }} >&2; }; then
{%- else -%}
if true; then
{%- endif %}
    printf '%s\n' {{ hostname | sh }} >/etc/hostname && chmod 0644 /etc/hostname &&
        printf '%s\n' {{ hostname | sh }} >/proc/sys/kernel/hostname || fail hostname 'Could not set the hostname'
fi
step hostname changed {{ hostname_done | sh }}
{%- endif %}
{%- if hosts_name %}

# Without it `sudo` complains at each call, and waits for DNS first.
if { grep -v '^127\.0\.1\.1[[:blank:]]' /etc/hosts; printf '127.0.1.1 %s\n' {{ hosts_name | sh }}; } >"$stage/hosts"; then
    cat "$stage/hosts" >/etc/hosts || fail hostname 'Could not write `/etc/hosts`'
fi
{%- endif %}

# From here on files are replaced. Should this be the end, the next run knows what is still to be done.
{%- if pending %}
echo {{ pending | plain }} >"$pending" || fail service 'Could not write to `/run`'
{%- endif %}
{%- for directory in directories %}
directory {{ directory.path | sh }} {{ directory.mode | plain }}
{%- endfor %}
{%- if engine %}
# Before its configuration, of which the one that was there may not understand all.
mv -f "$fresh/engine" /usr/local/bin/engine || fail engine 'Could not replace `/usr/local/bin/engine`'
label /usr/local/bin/engine
# The name must not reach the disk before the content.
sync /usr/local/bin/engine /usr/local/bin 2>/dev/null || sync
step engine changed {{ engine.done | sh }}
{%- endif %}
{%- for file in files %}
{%- if file.keep_original %}
keep_original {{ file.path | sh }}
{%- endif %}
put {{ file.staged | sh }} {{ file.path | sh }} {{ file.step | plain }}
{%- if file.done %}
step {{ file.step | plain }} changed {{ file.done | sh }}
{%- endif %}
{%- endfor %}
{%- for link in links %}
ln -s {{ link.target | sh }} {{ link.path | sh }} || fail commands {{ link.failed | sh }}
step commands changed {{ link.done | sh }}
{%- endfor %}
{%- if firewall == "firewalld" %}

if firewall-cmd --permanent --add-port={{ port | plain }}/tcp >&2 && firewall-cmd --add-port={{ port | plain }}/tcp >&2; then
    step firewall changed {{ firewall_done | sh }}
else
    fail firewall {{ firewall_failed | sh }}
fi
{%- elif firewall == "ufw" %}

if ufw allow {{ port | plain }}/tcp >&2; then
    step firewall changed {{ firewall_done | sh }}
else
    fail firewall {{ firewall_failed | sh }}
fi
{%- endif %}
{%- if service %}
{%- if init == "systemd" and reload_units %}

systemctl daemon-reload >&2 || fail service 'systemd could not read its units again'
{%- endif %}
{%- if enable %}
{%- if init == "systemd" %}
systemctl enable {{ service | plain }}.service >&2 || fail service {{ enable_failed | sh }}
{%- elif init == "openrc" %}
rc-update add {{ service | plain }} default >&2 || fail service {{ enable_failed | sh }}
{%- endif %}
step service changed {{ enable_done | sh }}
{%- endif %}
{%- if stop_stray %}

# It runs, but not for the service manager, and would be in the way of the one that is to be started.
if read -r stray </run/engine.pid && grep -q /usr/local/bin/engine "/proc/$stray/cmdline" 2>/dev/null; then
    kill "$stray"
    tries=0
    while [ -d "/proc/$stray" ] && [ "$tries" -lt 30 ]; do sleep 1; tries=$((tries + 1)); done
fi
{%- endif %}
{%- if action %}

step service running {{ action_text | sh }}
if ! control {{ action | plain }}; then
    show_log
    fail service {{ action_failed | sh }}
fi
{%- if action == "reload" %}
# A signal is not answered. Whoever looks at the certificates next is to see the new ones.
sleep 1
{%- elif await_port %}
if ! await_port {{ port_hexadecimal | plain }}; then
    show_log
    fail service {{ silent | sh }}
fi
{%- endif %}
step service changed {{ action_done | sh }}
{%- endif %}
{%- endif %}
rm -f "$pending"
echo finished
