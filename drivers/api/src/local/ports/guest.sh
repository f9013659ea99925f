# Adds to $found what listens, from a table of the kernel's: file, protocol, state of a listening socket.
collect() {
	[ -r "$1" ] || return 0
	while read -r slot local remote state rest; do
		[ "$state" = "$3" ] || {
			# The listening TCP sockets come first; there may be thousands of others.
			[ "$2" = tcp ] && [ "$slot" != sl ] && break
			continue
		}
		number=$((0x${local##*:}))
		case ${local%:*} in
		??????7F | 00000000000000000000000001000000 | 0000000000000000FFFF0000??????7F) continue ;;
		esac
		if [ "$2" = udp ]; then
			# DHCP's own port, and those that the kernel lends to clients.
			[ "$number" -eq 68 ] || [ "$number" -ge 32768 ] && continue
		fi
		case " $found " in
		*" $2:$number "*) ;;
		*) found="$found $2:$number" ;;
		esac
	done <"$1"
}

until find_port; do
	sleep 1
done
exec 3>"$port" || exit 1

said=none
turn=0
while :; do
	found=
	collect /proc/net/tcp tcp 0A
	collect /proc/net/tcp6 tcp 0A
	collect /proc/net/udp udp 07
	collect /proc/net/udp6 udp 07
	if [ "$found" != "$said" ] || [ "$turn" -ge 20 ]; then
		echo "$found" >&3 || exit 1
		said=$found
		turn=0
	fi
	turn=$((turn + 1))
	sleep 0.5
done
