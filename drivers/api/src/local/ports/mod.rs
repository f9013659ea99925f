//! Published ports of a VM: what its guest says of them, and for how long they are led on.
//!
//! The guest says on which ports it listens, one line with all of them; whoever runs the VM leads the same ports of the
//! VM's address to it. The guest is not trusted: all it can bring about is that ports of its own address lead to itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// The guest's half, which speaks over the virtio-serial port `org.machine.ports`.
pub const GUEST_OVER_VIRTIO: &str = concat!(include_str!("virtio.sh"), include_str!("guest.sh"));
/// The guest's half, which speaks over the second serial port.
pub const GUEST_OVER_SERIAL: &str = concat!(include_str!("serial.sh"), include_str!("guest.sh"));

/// A host with more published ports than this is not a VM on somebody's desk.
const MOST_PORTS: usize = 256;
/// The longest line that a guest says: 256 times ` tcp:65535` and some room.
pub const LONGEST_LINE: usize = 4096;
/// A port on which nobody listens any more is forwarded for so long: an engine that is restarted or replaced listens again
/// soon, and what is led to its containers goes on meanwhile.
const LINGER: Duration = Duration::from_secs(15);

/// A port that the guest listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub protocol: Protocol,
    pub number: u16,
}

/// The protocol of a [`Port`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Reads what the guest says. Anything but known words is ignored.
pub fn parse(line: &[u8], excluded: &[u16]) -> BTreeSet<Port> {
    let Ok(line) = std::str::from_utf8(line) else { return BTreeSet::new() };
    line.split_ascii_whitespace()
        .filter_map(|word| {
            let (protocol, number) = word.split_once(':')?;
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            };
            if !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            Some(Port { protocol, number: number.parse().ok().filter(|number| *number != 0)? })
        })
        .filter(|port| port.protocol == Protocol::Udp || !excluded.contains(&port.number))
        .take(MOST_PORTS)
        .collect()
}

/// The lines of the guest, none longer than a bound.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
    /// The rest of a line that was too long is skipped.
    skipping: bool,
}

impl Lines {
    /// Takes what came; gives the last whole line in it, which is all that counts.
    pub fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut last = None;
        for byte in bytes {
            if *byte == b'\n' {
                if !std::mem::take(&mut self.skipping) {
                    last = Some(std::mem::take(&mut self.pending));
                }
                self.pending.clear();
            } else if !self.skipping {
                self.pending.push(*byte);
                self.skipping = self.pending.len() > LONGEST_LINE;
            }
        }
        last
    }
}

/// Ports that are forwarded and not wanted any more, and since when.
#[derive(Debug, Default)]
pub struct Leaving(BTreeMap<Port, Instant>);

impl Leaving {
    /// Those whose time is over.
    pub fn over(&mut self, forwarded: &BTreeSet<Port>, wanted: &BTreeSet<Port>, now: Instant) -> Vec<Port> {
        self.0.retain(|port, _| forwarded.contains(port) && !wanted.contains(port));
        for port in forwarded.difference(wanted) {
            self.0.entry(*port).or_insert(now);
        }
        // A guest that wants others all the time keeps none.
        let linger = if forwarded.len() > MOST_PORTS { Duration::ZERO } else { LINGER };
        let over = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= linger);
        over.map(|(port, _)| *port).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ports(line: &str) -> Vec<String> {
        let found = parse(line.as_bytes(), &[22, 2376, 3376]);
        found.iter().map(|port| format!("{}:{}", port.protocol.name(), port.number)).collect()
    }

    #[test]
    fn known_words_are_ports() {
        assert_eq!(ports(" tcp:80 udp:53 tcp:22 tcp:2376 udp:22 tcp:80"), ["tcp:80", "udp:22", "udp:53"]);
        assert!(ports("").is_empty());
    }

    #[test]
    fn a_hostile_guest_gets_nothing_but_ports() {
        for line in [
            "tcp:0",
            "tcp:65536",
            "tcp:+80",
            "tcp:-1",
            "tcp:80-10.0.0.1:80",
            "tcp:127.0.0.1:80",
            "tcp:8\u{0660}",
            "sctp:80",
            "tcp",
            "tcp:80;quit",
            "\u{1b}[2J",
        ] {
            assert!(ports(line).is_empty(), "{line:?}");
        }
        assert!(parse(b"tcp:80 \xff", &[]).is_empty());
        let many: Vec<String> = (1..2000).map(|number| format!("tcp:{number}")).collect();
        assert_eq!(parse(many.join(" ").as_bytes(), &[]).len(), MOST_PORTS);
    }

    #[test]
    fn a_line_without_an_end_takes_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..1000 {
            assert_eq!(lines.push(&[b'x'; 1024]), None);
        }
        assert!(lines.pending.capacity() <= 4 * LONGEST_LINE);
        assert_eq!(lines.push(b"tail\ntcp:80\ntcp:81\ntcp"), Some(b"tcp:81".to_vec()));
        assert_eq!(lines.push(b":82\n"), Some(b"tcp:82".to_vec()));
    }

    #[test]
    fn a_port_stays_for_a_while_after_nobody_listens() {
        let set = |numbers: &[u16]| -> BTreeSet<Port> {
            numbers.iter().map(|&number| Port { protocol: Protocol::Tcp, number }).collect()
        };
        let (mut leaving, start) = (Leaving::default(), Instant::now());
        let mut over = |forwarded: &[u16], wanted: &[u16], after: Duration| -> Vec<u16> {
            let over = leaving.over(&set(forwarded), &set(wanted), start + after);
            over.iter().map(|port| port.number).collect()
        };
        assert!(over(&[80, 81], &[80], Duration::ZERO).is_empty());
        assert!(over(&[80, 81], &[80], LINGER / 2).is_empty());
        // One that comes back begins anew.
        assert!(over(&[80, 81], &[81], LINGER * 9 / 10).is_empty());
        assert!(over(&[80, 81], &[], LINGER).is_empty());
        assert_eq!(over(&[80, 81], &[], LINGER * 19 / 10), [80]);
        assert_eq!(over(&[81], &[], LINGER * 2), [81]);
        let many: Vec<u16> = (1..=u16::try_from(MOST_PORTS).unwrap() + 1).collect();
        assert_eq!(over(&many, &many[1..], LINGER * 3), [1]);
    }

    /// The guest's script up to its loop, with tables of our own in place of the kernel's.
    fn guest_says(shell: &str, tcp: &str, udp: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tcp"), tcp).unwrap();
        std::fs::write(folder.path().join("udp"), udp).unwrap();
        let functions = GUEST_OVER_VIRTIO.split("until find_port").next().unwrap();
        let script =
            format!("{functions}\nfound=\ncollect tcp tcp 0A\ncollect udp udp 07\necho \"$found\"\n");
        let shell: Vec<&str> = shell.split(' ').collect();
        let output = std::process::Command::new(shell[0])
            .args(&shell[1..])
            .args(["-c", &script])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn the_guest_tells_what_others_can_reach() {
        let tcp =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1512 1 0
   1: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1512 1 0
   2: 0F02000A:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1512 1 0
   3: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000
   4: 00000000000000000000000001000000:0017 00000000000000000000000000000000:0000 0A 00000000:00000000
   5: 0000000000000000FFFF00000100007F:0018 00000000000000000000000000000000:0000 0A 00000000:00000000
   6: 0F02000A:0016 0202000A:EA94 01 00000000:00000000 02:000AFBCB 00000000     0        0 12203 3 0
";
        let udp = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  14: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  15: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  16: 00000000:9C40 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  17: 0100007F:0143 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
  18: 00000000:0202 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1512 2 0 0
";
        for shell in ["sh", "bash --posix", "busybox sh"] {
            if std::process::Command::new(shell.split(' ').next().unwrap()).arg("--help").output().is_err() {
                continue;
            }
            assert_eq!(guest_says(shell, tcp, udp), "tcp:8080 tcp:443 tcp:22 udp:53 udp:514", "{shell}");
        }
    }
}
