# Reports what a host is and what it has, one `key=value` a line, and changes nothing. `src/provision/facts.rs` reads it.
#
# It comes on the standard input of `/bin/sh -s`, which runs as root where the login allows it. All of it is one function,
# so that no command can eat the rest of the script. Emulated hosts start some hundred processes a second: few are started.

report() {
    echo machine-probe=begin

    read -r line </proc/sys/kernel/hostname && printf 'node=%s\n' "$line"
    read -r kernel_release </proc/sys/kernel/osrelease && printf 'kernel=%s\n' "$kernel_release"
    printf 'architecture=%s\n' "$(uname -m)"
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
                engine.service docker.service docker.socket containerd.service
            ;;
        openrc)
            for service in engine docker; do
                [ -x "/etc/init.d/$service" ] || continue
                if rc-service "$service" status >/dev/null 2>&1; then active=active; else active=inactive; fi
                if [ -e "/etc/runlevels/default/$service" ]; then enabled=enabled; else enabled=disabled; fi
                printf 'Id=%s.service\nActiveState=%s\nUnitFileState=%s\n\n' "$service" $active $enabled
            done
            ;;
        machineos)
            if [ -x /etc/services/engine/run ]; then
                if service engine status >/dev/null 2>&1; then active=active; else active=inactive; fi
                printf 'Id=engine.service\nActiveState=%s\nUnitFileState=enabled\n\n' $active
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
    links=
    for file in {% for path in files %}{{ path | sh }} {% endfor %}; do
        if [ -L "$file" ]; then
            links="$links $file"
        elif [ -f "$file" ]; then
            set -- "$@" "$file"
        elif [ -e "$file" ]; then
            printf 'other=%s\n' "$file"
        fi
    done
    if [ $# -gt 0 ]; then
        stat -c 'stat=%a %u %g %n' "$@"
        sha256sum "$@"
    fi
    # shellcheck disable=SC2012,SC2086 # Paths of ours, without blanks.
    [ -z "$links" ] || ls -l $links
    # What is in these decides whether a reload will do, and what of it is somebody else's.
    for file in /etc/engine/daemon.json /etc/docker/daemon.json; do
        if [ -f "$file" ] && has base64; then
            printf 'content=%s ' "$file"
            base64 -w 0 "$file"
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
    if [ $# -gt 0 ]; then
        modules=/lib/modules/$kernel_release
        available=$(grep -h -o -E '/(overlay|bridge|veth|nf_tables)\.ko' "$modules/modules.builtin" "$modules/modules.dep")
        for module in "$@"; do
            case $available in
                *"/$module.ko"*) ;;
                # Neither loaded nor listed: it may be built in without a word. The engine will say so if it is not.
                *) [ ! -e "$modules/modules.dep" ] || printf 'missing-kernel=%s\n' "$module" ;;
            esac
        done
    fi
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
    set --
    for wanted in /run /usr/local/bin /etc; do
        path=$wanted
        while [ ! -d "$path" ]; do path=${path%/*}; done
        [ -w "${path:-/}" ] || printf 'read-only=%s\n' "$wanted"
        set -- "$@" "${path:-/}"
    done
    df -Pk "$@" | {
        read -r line
        for wanted in /run /usr/local/bin /etc; do
            read -r line && printf 'space=%s %s\n' "$wanted" "$line"
        done
    }
}

report_names() {
    hostname={{ hostname | sh }}
    if [ -n "$hostname" ]; then
        [ -r /etc/hostname ] && read -r line </etc/hostname && printf 'static-hostname=%s\n' "$line"
        while IFS='	 ' read -r address names; do
            case $address in '#'*) continue ;; esac
            case " $names " in *[[:blank:]]"$hostname"[[:blank:]]*) echo in-hosts=yes ;; esac
        done </etc/hosts
    fi
    user={{ login_user | sh }}
    while IFS=: read -r group _ _ members; do
        [ "$group" = docker ] || continue
        echo docker-group=yes
        case ",$members," in *",$user,"*) user= ;; esac
    done </etc/group
    # It may be the user's first group, or known to a directory service alone.
    [ -z "$user" ] || case " $(id -nG "$user") " in *' docker '*) user= ;; esac
    [ -n "$user" ] || echo docker-member=yes
}

report_engines() {
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
exit 0
