//! MachineOS in real virtual machines: what the image promises, tried from outside.
//!
//! `cargo test -p machineos-init --test vm -- --ignored`, after `cargo xtask image machineos`. Needs QEMU, the OpenSSH
//! client, mtools, dosfstools and genisoimage. Runs in software emulation, two processors for each machine.

#![allow(clippy::unwrap_used)]

#[path = "vm/machine.rs"]
mod machine;
#[path = "vm/metadata.rs"]
mod metadata;

use machine::{Bench, Disks, Seed};
use metadata::Metadata;

/// Beats once a second, says what signals it gets.
const SERVICE: &str = "#!/bin/sh\ntrap 'echo hup' HUP\ntrap 'echo term; exit 0' TERM\n\
    while :; do echo beat; sleep 1 & wait $!; done\n";

#[test]
#[ignore = "boots virtual machines; needs the image"]
fn a_host_keeps_its_promises_through_its_life() {
    let bench = Bench::new();
    let seed = Seed { instance: "i-1", host_name: "mc1", ..Seed::default() };
    let delivered = bench.read("host.pub");
    let data = bench.blank_disk("data.qcow2", "2G");
    let machine = bench.boot(&Disks::Virtio { data: Some(&data), seed: Some(bench.fat(&seed)) });

    // Who and where.
    machine.ssh("test $(hostname) = mc1");
    machine.ssh("grep -qx ID=machineos /etc/os-release");
    assert_eq!(machine.ssh("echo $PATH").split(':').filter(|part| *part == "/usr/local/bin").count(), 1);
    machine.ssh("test $(sudo -n id -u) = 0");
    machine.ssh("id -nG | grep -qw docker");
    // Scripts get the programs of the packages, not what a shell has inside.
    machine.ssh("sh -c 'for name in ip reboot service; do test -x $(command -v $name) || exit 1; done'");
    machine.ssh("sh -c 'ip -V' | grep -q iproute2");
    assert_eq!(
        machine.ssh("sudo cat /etc/from-seed; sudo stat -c %a:%U /etc/from-seed"),
        "hello\n600:root\n"
    );
    machine.refuses_passwords();
    machine.copies_files();

    // What the engine needs.
    let controllers = machine.ssh("cat /sys/fs/cgroup/cgroup.subtree_control");
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|found| found == controller), "{controllers}");
    }
    machine.ssh("test $(cat /proc/sys/net/ipv4/ip_forward) = 1");
    machine.ssh(
        "for module in overlay bridge br_netfilter veth vxlan macvlan ipvlan nf_tables ip_vs ip_vs_rr xt_ipvs wireguard; \
         do sudo modprobe $module || exit 1; done",
    );
    machine.ssh(
        "sudo nft 'add table ip t; add chain ip t c { type nat hook prerouting priority -100; }; \
         add rule ip t c tcp dport 80 dnat to numgen inc mod 2 map { 0 : 10.9.0.1, 1 : 10.9.0.2 }; delete table ip t'",
    );
    machine.ssh(
        "sudo ip link add br9 type bridge && sudo ip link add v9 type veth peer name w9 && \
         sudo ip link set v9 master br9 && sudo ip link add x9 type vxlan id 9 dstport 4789 && \
         sudo ip link del x9 && sudo ip link del v9 && sudo ip link del br9",
    );
    let container = "cd /var/lib/engine && mkdir -p t/lower/bin t/upper t/work t/root && cp /bin/busybox t/lower/bin/ && \
        mount -t overlay overlay -o lowerdir=t/lower,upperdir=t/upper,workdir=t/work t/root && cd t/root && \
        mkdir old && pivot_root . old && /bin/busybox echo inside && /bin/busybox umount -l /old";
    assert_eq!(machine.ssh(&format!("sudo unshare -m -p -f -i -u -n sh -c '{container}'")), "inside\n");
    machine.ssh("sudo mknod /var/lib/engine/t/null c 1 3 && sudo sh -c 'echo x > /var/lib/engine/t/null'");
    machine
        .ssh("sudo rm -r /var/lib/engine/t && grep -q ' /dev/pts devpts ' /proc/mounts && test -d /dev/shm");
    machine.ssh("test -e /dev/virtio-ports/org.example.port.0");
    machine.ssh("nslookup -type=a localhost >/dev/null 2>&1; grep -q nameserver /etc/resolv.conf");

    // Services.
    let pid = machine.service_pid("beat");
    machine.ssh("sudo service beat reload && sleep 1 && grep -qx hup /var/log/beat.log");
    machine.ssh(&format!("sudo kill -9 {pid}"));
    let next = machine.await_value(|| machine.try_service_pid("beat").filter(|next| *next != pid));
    machine.ssh("sudo service beat restart");
    assert_ne!(machine.service_pid("beat"), next);
    machine.ssh("sudo service beat stop");
    machine.ssh("sudo service beat status; test $? = 3");
    machine.ssh("sudo service none start; test $? = 4");
    machine.ssh("service beat start; test $? = 4");
    machine.ssh("sudo service beat start && grep -qx term /var/log/beat.log");

    // A reboot keeps what is to be kept, and no more.
    machine.ssh("echo kept > ~/file && echo kept | sudo tee /var/lib/engine/file /usr/local/bin/file /etc/engine/file");
    machine.ssh("echo lost | sudo tee /etc/lost /etc/ssh/lost; echo 'ssh-ed25519 AAAA other' >> ~/.ssh/authorized_keys");
    machine.replace_host_key();
    machine.reboot();
    machine.ssh(
        "cat ~/file /var/lib/engine/file /usr/local/bin/file /etc/engine/file | grep -c kept | grep -qx 4",
    );
    machine.ssh("test ! -e /etc/lost && test ! -e /etc/ssh/lost && sudo test -e /etc/from-seed && grep -q other ~/.ssh/authorized_keys");
    assert_eq!(machine.ssh("cat /var/log/ran"), "ran\n");
    machine.service_pid("beat");

    // The power button ends it cleanly; a larger disk is used; other hardware is found; the seed may be a disc.
    let before: u64 = machine.ssh("df -m /home | awk 'NR==2 {print $2}'").trim().parse().unwrap();
    machine.press_power_button();
    Bench::grow_disk(&data, "4G");
    let machine = bench.boot(&Disks::Ahci { data: &data, seed: bench.iso(&seed) });
    let after: u64 = machine.ssh("df -m /home | awk 'NR==2 {print $2}'").trim().parse().unwrap();
    assert!(after > before + 1500, "{before} {after}");
    machine.ssh("grep -qx kept ~/file && grep -qx ran /var/log/ran");
    assert!(!machine.ssh("sudo dmesg").contains("recovery complete"), "The file system was not unmounted");
    machine.ssh("lsmod | grep -q ^e1000 && lsmod | grep -q ^ahci");

    // Without its seed it is still the same host; a power cut hurts nobody.
    machine.ssh("sync");
    machine.cut_power();
    let machine = bench.boot(&Disks::Virtio { data: Some(&data), seed: None });
    machine.ssh("test $(hostname) = mc1 && grep -qx kept ~/file");
    machine.ssh_to_the_end("sudo poweroff");
    machine.await_end();

    // A new instance on the same disk: its seed is followed, host key and all; the data stays.
    bench.expect_host_key(&delivered);
    let seed = Seed { instance: "i-2", host_name: "mc2", ..Seed::default() };
    let machine = bench.boot(&Disks::Virtio { data: Some(&data), seed: Some(bench.fat(&seed)) });
    machine.ssh("test $(hostname) = mc2 && grep -qx kept ~/file");
    machine.await_value(|| (machine.ssh("wc -l < /var/log/ran").trim() == "2").then_some(()));
    machine.ssh("! grep -q other ~/.ssh/authorized_keys");
}

#[test]
#[ignore = "boots virtual machines; needs the image"]
fn an_instance_of_ec2_follows_its_metadata() {
    let bench = Bench::new();
    bench.user.set("docker");
    let metadata = Metadata::serve();
    let delivered = bench.read("host.pub");
    let private: String = bench.read("host").lines().map(|line| format!("    {line}\r\n")).collect();
    // Two parts of each kind, in an order of their own; line ends as mail has them.
    let user_data = format!(
        "Content-Type: multipart/mixed; boundary=\"==b==\"\r\nMIME-Version: 1.0\r\n\r\n\
         --==b==\r\nContent-Type: text/x-shellscript\r\n\r\n\
         #!/bin/sh\r\necho script $(id -u) $(stat -c %a:%U $0) >> /var/log/ran\r\n--==b==\r\n\
         Content-Type: text/cloud-config; charset=\"us-ascii\"\r\nContent-Transfer-Encoding: 7bit\r\n\
         Content-Disposition: attachment; filename=\"config.yaml\"\r\n\r\n#cloud-config\r\n\
         ssh_keys:\r\n  ed25519_private: |\r\n{private}  ed25519_public: {}\r\n\
         runcmd:\r\n  - echo first >> /var/log/ran\r\n--==b==\r\n\
         Content-Type: text/cloud-config\r\n\r\nruncmd: ['echo second >> /var/log/ran']\r\n--==b==\r\n\
         Content-Type: text/x-shellscript\r\nContent-Transfer-Encoding: base64\r\n\r\n\
         IyEvYmluL3NoCmVjaG8gbGFzdCA+PiAvdmFyL2xv\r\nZy9yYW4K\r\n--==b==\r\n\
         Content-Type: text/cloud-boothook\r\n\r\n#!/bin/sh\r\n--==b==--\r\n",
        delivered.trim(),
    );
    metadata.say("i-0000000000000001", &bench.read("id.pub"), Some(&user_data));
    let data = bench.blank_disk("data.qcow2", "2G");
    let here = Disks::Ec2 { data: &data, metadata: &metadata, options: "" };
    let machine = bench.boot(&here);
    let console = machine.console();
    assert!(console.contains("type `text/cloud-boothook` is not known"), "{console}");
    assert!(!console.contains("There is no"), "{console}");
    assert_eq!(machine.host_keys_on_console().trim_end(), delivered.trim_end());
    machine.ssh("test $(hostname) = ip-10-0-0-1.eu-test-1.compute.internal");
    machine.ssh("test $(sudo -n id -u) = 0 && id -nG | grep -qw docker && id -un | grep -qx docker");
    machine
        .ssh("ip -4 route show default | grep -q 'via 169.254.0.2' && grep -q 169.254.0.3 /etc/resolv.conf");
    machine.ssh("ip -4 address show eth0 | grep -q 'inet 169.254.10.15/16' && df /home | grep -q ^/dev/nvme");
    let ran = "first\nsecond\nscript 0 700:root\nlast\n";
    machine.await_value(|| (machine.ssh("cat /var/log/ran; true") == ran).then_some(()));

    // The replaced host key stays, the commands do not run again, through a reboot and through a stop and a start.
    machine.replace_host_key();
    machine.reboot();
    assert_eq!(machine.ssh("cat /var/log/ran"), ran);
    machine.press_power_button();
    let machine = bench.boot(&here);
    assert_eq!(machine.ssh("cat /var/log/ran"), ran);
    assert_eq!(machine.host_keys_on_console(), bench.read("host.pub"));
    machine.press_power_button();

    // A copy of the disk in another instance: a host key of its own, which its console tells.
    bench.user.set("jo");
    let script = "#!/bin/sh\necho copy >> /var/log/ran\n";
    metadata.say("i-0000000000000002", &bench.read("id.pub"), Some(script));
    let machine =
        bench.boot_to_ready(&Disks::Ec2 { data: &data, metadata: &metadata, options: "machineos.user=jo" });
    let own = machine.host_keys_on_console();
    assert!(own.starts_with("ssh-ed25519 ") && own.contains(" root@ip-10-0-0-1."), "{own}");
    assert!(own != bench.read("host.pub") && own != delivered);
    bench.expect_host_key(&own);
    machine.await_value(|| (machine.ssh("cat /var/log/ran") == format!("{ran}copy\n")).then_some(()));
}

#[test]
#[ignore = "boots virtual machines; needs the image"]
fn without_a_data_disk_everything_is_memory() {
    let bench = Bench::new();
    let seed = Seed {
        network: Some(
            "version: 2\nethernets: {eth0: {addresses: [10.0.2.15/24], gateway4: 10.0.2.2, \
        nameservers: {addresses: [10.0.2.3]}}}\n",
        ),
        ..Seed::default()
    };
    let machine = bench.boot(&Disks::Virtio { data: None, seed: Some(bench.iso(&seed)) });
    assert!(machine.console().contains("There is no data disk"), "{}", machine.console());
    machine.ssh("sudo touch /var/lib/engine/x && df /var/lib/engine | grep -q tmpfs");
    machine.ssh("! sudo service dhcp-eth0 status && ip -4 address show eth0 | grep -q 10.0.2.15/24");
    assert_eq!(machine.ssh("cat /etc/resolv.conf"), "nameserver 10.0.2.3\n");
}

#[test]
#[ignore = "boots virtual machines; needs the image"]
fn a_disk_with_somebodys_data_is_left_alone() {
    let bench = Bench::new();
    let data = bench.folder.path().join("data.raw");
    let content = vec![0x5a; 1 << 20];
    let file = std::fs::File::create(&data).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &content, 64 << 20).unwrap();
    file.set_len(65 << 20).unwrap();
    let before = std::fs::read(&data).unwrap();
    let machine = bench.boot(&Disks::Raw { data: &data, seed: bench.fat(&Seed::default()) });
    assert!(machine.console().contains("There is no data disk"), "{}", machine.console());
    machine.cut_power();
    assert!(std::fs::read(&data).unwrap() == before);
}

#[test]
#[ignore = "boots virtual machines; needs the image"]
fn a_broken_seed_is_said_and_stops_nothing() {
    let bench = Bench::new();
    let machine = bench.boot_to_ready(&Disks::Virtio {
        data: None,
        seed: Some(bench.raw_fat("#cloud-config\nusers: [{]\n")),
    });
    let console = machine.console();
    assert!(console.contains("`user-data` of the seed is not understood"), "{console}");
    assert!(console.contains("-----BEGIN SSH HOST KEY KEYS-----\nssh-ed25519 "), "{console}");
}
