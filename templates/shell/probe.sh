# Reports what a host is and what it has, one `key=value` a line, and changes nothing. `src/provision/facts.rs` reads it.
#
# It comes on the standard input of `/bin/sh -s`, which runs as root where the login allows it. All of it is one function,
# so that no command can eat the rest of the script. Emulated hosts start some hundred processes a second: few are started.

report() {
    echo machine-probe=begin

    # shellcheck disable=SC2046 # Three words, and none of them can be a pattern.
    set -- $(uname -n -r -m)
    printf 'node=%s\nkernel=%s\narchitecture=%s\n' "$1" "$2" "$3"
    kernel_release=$2
    printf 'clock=%s\n' "$(date +%s)"

    init=
    for file in /etc/os-release /usr/lib/os-release; do
        [ -r "$file" ] || continue
        count=0
        while IFS= read -r line || [ -n "$line" ]; do
            [ "$count" -lt 64 ] || break
            count=$((count + 1))
            printf 'os-release=%s\n' "$line"
            case $line in ID=machineos | ID=\"machineos\" | "ID='machineos'") init=machineos ;; esac
        done <"$file"
        break
    done
    report_init
    report_tools
    report_files
    report_kernel
    report_space
    report_names
    report_engines
    report_protection

    echo machine-probe=end
}

has() {
    command -v "$1" >/dev/null 2>&1
}

report_init() {
    if [ -z "$init" ]; then
        if [ -d /run/systemd/system ] && has systemctl; then
            init=systemd
        elif has rc-service && has rc-update && { [ -d /run/openrc ] || [ -d /lib/rc ] || [ -d /usr/libexec/rc ]; }; then
            init=openrc
        else
            init=unknown
            read -r line </proc/1/comm && printf 'first-process=%s\n' "$line"
        fi
    fi
    printf 'init=%s\n' "$init"

    case $init in
        systemd)
            systemctl show -p Id -p LoadState -p ActiveState -p UnitFileState \
                engine.service docker.service docker.socket containerd.service firewalld.service ufw.service |
                while IFS= read -r line; do printf 'unit=%s\n' "$line"; done
            ;;
        openrc)
            for service in engine docker; do
                [ -x "/etc/init.d/$service" ] || continue
                if rc-service "$service" status >/dev/null 2>&1; then active=active; else active=inactive; fi
                if [ -e "/etc/runlevels/default/$service" ]; then enabled=enabled; else enabled=disabled; fi
                printf 'unit=Id=%s.service\nunit=ActiveState=%s\nunit=UnitFileState=%s\nunit=\n' "$service" $active $enabled
            done
            ;;
        machineos)
            if [ -x /etc/services/engine/run ]; then
                if service engine status >/dev/null 2>&1; then active=active; else active=inactive; fi
                printf 'unit=Id=engine.service\nunit=ActiveState=%s\nunit=UnitFileState=enabled\nunit=\n' $active
            fi
            ;;
    esac
}

report_tools() {
    for tool in tar gzip sha256sum stat cat cp mv rm mkdir chmod chown ln sed grep sleep; do
        has $tool || printf 'missing-tool=%s\n' $tool
    done
}

report_files() {
    set --
    for file in {% for path in files %}{{ path | sh }} {% endfor %}; do
        if [ -L "$file" ]; then
            printf 'link=%s %s\n' "$file" "$(readlink "$file")"
        elif [ -f "$file" ]; then
            set -- "$@" "$file"
        elif [ -e "$file" ]; then
            printf 'other=%s\n' "$file"
        fi
    done
    if [ $# -gt 0 ]; then
        stat -c '%a %u %g %n' "$@" | while IFS= read -r line; do printf 'stat=%s\n' "$line"; done
        sha256sum "$@" | while IFS= read -r line; do printf 'sha256=%s\n' "$line"; done
    fi
    # What is in these decides whether a reload will do, and what of it is somebody else's.
    for file in /etc/engine/daemon.json /etc/docker/daemon.json; do
        if [ -f "$file" ] && has base64; then
            printf 'content=%s ' "$file"
            head -c 65536 "$file" | base64 | while IFS= read -r line; do printf '%s' "$line"; done
            echo
        fi
    done
    if [ -r /run/machine-provision.pending ]; then
        read -r line </run/machine-provision.pending && printf 'pending=%s\n' "$line"
    fi
}

report_kernel() {
    overlay=no
    while read -r line; do
        case $line in *overlay) overlay=yes ;; esac
    done </proc/filesystems
    set --
    [ $overlay = yes ] || set -- overlay
    for module in bridge veth nf_tables; do
        [ -d /sys/module/$module ] || set -- "$@" $module
    done
    for module in "$@"; do
        if grep -q "/$module\.ko" "/lib/modules/$kernel_release/modules.builtin" 2>/dev/null; then
            continue
        elif [ -e "/lib/modules/$kernel_release/modules.dep" ]; then
            grep -q "/$module\.ko" "/lib/modules/$kernel_release/modules.dep" ||
                printf 'missing-kernel=%s\n' "$module"
        else
            # Neither loaded nor listed: it may be built in without a word. The engine will say so if it is not.
            printf 'unknown-kernel=%s\n' "$module"
        fi
    done
    for namespace in mnt net pid ipc uts; do
        [ -e /proc/self/ns/$namespace ] || printf 'missing-kernel=%s namespaces\n' $namespace
    done
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo cgroup=2
    elif [ -d /sys/fs/cgroup/memory ] || [ -d /sys/fs/cgroup/unified ]; then
        echo cgroup=1
    elif [ $init = openrc ] && [ -x /etc/init.d/cgroups ]; then
        # Mounted when the engine starts, which wants that service.
        echo cgroup=later
    else
        echo cgroup=none
    fi
}

report_space() {
    for wanted in /run /usr/local/bin /etc /var/lib/engine; do
        path=$wanted
        while [ ! -d "$path" ]; do path=${path%/*}; done
        printf 'space=%s ' "$wanted"
        df -Pk "${path:-/}" | { read -r _ && read -r line && echo "$line"; } || echo
        [ -w "${path:-/}" ] || printf 'read-only=%s\n' "$wanted"
    done
}

report_names() {
    hostname={{ hostname | sh }}
    if [ -n "$hostname" ]; then
        [ -r /etc/hostname ] && read -r line </etc/hostname && printf 'static-hostname=%s\n' "$line"
        if grep -q "^[^#]*[[:blank:]]$hostname\([[:blank:]]\|\$\)" /etc/hosts; then echo in-hosts=yes; fi
    fi
    user={{ login_user | sh }}
    if grep -q '^docker:' /etc/group; then echo docker-group=yes; fi
    case " $(id -nG "$user" 2>/dev/null) " in *' docker '*) echo docker-member=yes ;; esac
}

report_engines() {
    if [ -x /usr/local/bin/engine ]; then
        printf 'engine-version=%s\n' "$(/usr/local/bin/engine --version 2>/dev/null | head -n 1)"
    fi
    if [ -r /run/engine.pid ] && read -r line </run/engine.pid && grep -q /usr/local/bin/engine "/proc/$line/cmdline"; then
        echo engine-runs=yes
    fi
    printf 'dockerd=%s\n' "$(command -v dockerd 2>/dev/null)"
    [ -S /run/containerd/containerd.sock ] && echo containerd=yes
    # State 0A is LISTEN.
    if grep -q '^ *[0-9]*: [0-9A-F]*:{{ port_hexadecimal | plain }} [0-9A-F]*:0000 0A' /proc/net/tcp /proc/net/tcp6 2>/dev/null; then
        echo port-taken=yes
    fi
}

report_protection() {
    if [ -r /sys/fs/selinux/enforce ]; then
        read -r line </sys/fs/selinux/enforce && printf 'selinux=%s\n' "$line"
    fi
    if has firewall-cmd && firewall-cmd --state >/dev/null 2>&1; then
        echo firewall=firewalld
        firewall-cmd --query-port={{ port | plain }}/tcp >/dev/null 2>&1 && echo firewall-open=yes
    elif has ufw; then
        rules=$(ufw status 2>/dev/null)
        case $rules in
            *'Status: active'*)
                echo firewall=ufw
                case $rules in *'{{ port | plain }}/tcp '*ALLOW*) echo firewall-open=yes ;; esac
                ;;
        esac
    fi
}

export LC_ALL=C
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
report </dev/null 2>/dev/null
